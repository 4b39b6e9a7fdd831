package upstream

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// chunksPerSecond decides how many bytes a body gets per turn: few enough that all bodies
	// that share a limit go on several times per second, and enough to cost no time.
	chunksPerSecond = 64
	// minChunk and maxChunk bound these bytes. The reader of a blob asks for maxChunk at most.
	minChunk, maxChunk = 4 << 10, 1 << 20
	// advance is how far bodies that begin, and documents, may overdraw a limit: their first
	// bytes come at once although all later ones of large blobs are due before them.
	advance = time.Second
)

// Bandwidth bounds the bytes per second of all bodies that share it. A nil Bandwidth, and one
// without a limit, bounds nothing. All methods may be called concurrently.
type Bandwidth struct{ current atomic.Pointer[pace] }

// pace is a limit that is in force.
type pace struct {
	*rate.Limiter
	chunk int // bytes of one turn
}

// NewBandwidth returns a Bandwidth of that many bytes per second; 0: no limit.
func NewBandwidth(bytesPerSecond int64) *Bandwidth {
	b := new(Bandwidth)
	b.Set(bytesPerSecond)
	return b
}

// Set changes the limit, also for bodies that are under way. 0: no limit.
func (b *Bandwidth) Set(bytesPerSecond int64) {
	old := b.current.Load()
	switch {
	case bytesPerSecond <= 0:
		b.current.Store(nil)
	case old == nil || old.Limit() != rate.Limit(bytesPerSecond):
		chunk := int(min(max(bytesPerSecond/chunksPerSecond, minChunk), maxChunk))
		burst := max(chunk, int(min(bytesPerSecond/10, 1<<30)))
		b.current.Store(&pace{rate.NewLimiter(rate.Limit(bytesPerSecond), burst), chunk})
	}
}

func (b *Bandwidth) pace() *pace {
	if b == nil {
		return nil
	}
	return b.current.Load()
}

// spend counts bytes that came. It returns when the bytes after them are due.
func (p *pace) spend(now time.Time, n int) time.Time {
	// A limit that was lowered meanwhile may have smaller turns.
	r := p.ReserveN(now, min(n, p.Burst()))
	return now.Add(r.DelayFrom(now))
}

// overdrawn returns for how long nothing more may be spent in advance.
func (p *pace) overdrawn(now time.Time) time.Duration {
	debt := time.Duration(-p.TokensAt(now) / float64(p.Limit()) * float64(time.Second))
	return max(0, debt-advance)
}

// throttle makes one body keep its limits: that of its upstream, and that of all upstreams
// together. The bytes of a Read are paid after it, by the wait before the next one, so none
// is held back that came.
type throttle struct {
	limits [2]*Bandwidth
	due    [2]time.Time // of the next byte, by each limit
	begun  bool
	blob   bool // documents never wait: lookups have time limits, and documents are short
	waited func(limit int, d time.Duration)
}

// await waits until the next bytes are due, and returns the part of p that they may fill. It
// returns the cause of ctx if that ends before.
func (t *throttle) await(ctx context.Context, p []byte) ([]byte, error) {
	var until, now time.Time
	slowest := -1
	for i, b := range t.limits {
		pace := b.pace()
		if pace == nil {
			continue
		}
		if now.IsZero() {
			now = time.Now()
		}
		p = p[:min(len(p), pace.chunk)]
		due := t.due[i]
		if !t.begun {
			due = now.Add(pace.overdrawn(now))
		}
		if due.After(now) && due.After(until) {
			until, slowest = due, i
		}
	}
	t.begun = true
	if slowest < 0 || !t.blob {
		return p, nil
	}
	wait := until.Sub(now)
	t.waited(slowest, wait)
	if !sleep(ctx, wait) {
		return nil, context.Cause(ctx)
	}
	return p, nil
}

// spend counts the bytes of a Read.
func (t *throttle) spend(n int) {
	if n <= 0 {
		return
	}
	for i, b := range t.limits {
		pace := b.pace()
		if pace == nil {
			continue
		}
		// Documents of a client that asks in a loop must not stop all blobs.
		if now := time.Now(); t.blob || pace.overdrawn(now) == 0 {
			t.due[i] = pace.spend(now, n)
		}
	}
}
