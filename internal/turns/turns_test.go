package turns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

// callers are those of a test in one queue, within a bubble of synctest.
type callers struct {
	*Queue
	mu   sync.Mutex
	runs []string // addresses of those that have a slot or had one, in their order
	busy map[string]int
	left int
}

const (
	maxWaiting   = 256
	maxOfNetwork = 32
)

func limits(slots int) Limits {
	return Limits{Running: slots, Waiting: maxWaiting, WaitingOfNetwork: maxOfNetwork}
}

func newCallers(slots int) *callers {
	return &callers{Queue: New(limits(slots)), busy: map[string]int{}}
}

// enter has a client enter, and waits until it runs, waits or is refused.
func (l *callers) enter(ctx context.Context, address string) {
	go func() {
		_, err := l.Enter(ctx, netip.MustParseAddr(address))
		l.mu.Lock()
		defer l.mu.Unlock()
		if errors.Is(err, ErrFull) {
			l.busy[address]++
		} else if err != nil {
			l.left++
		} else {
			l.runs = append(l.runs, address)
		}
	}()
	synctest.Wait()
}

// next ends a call, and returns the address of the one that runs then.
func (l *callers) next() string {
	before := len(l.runs)
	l.leave()
	synctest.Wait()
	if len(l.runs) == before {
		return ""
	}
	return l.runs[before]
}

// A bounded number of callers waits, and a smaller one of each network. Each gets its turn,
// and a client that leaves gives its place back.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCallers(2)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		for range 2 + maxOfNetwork + 5 {
			l.enter(ctx, "2001:db8::1")
		}
		if len(l.runs) != 2 || l.busy["2001:db8::1"] != 5 {
			t.Fatalf("%d run, %d were refused", len(l.runs), l.busy["2001:db8::1"])
		}
		for _, ofTheSite := range []string{"2001:db8::ffff", "2001:db8:0:ffff::1"} {
			if l.enter(ctx, ofTheSite); l.busy[ofTheSite] != 1 {
				t.Errorf("%s of the same network has a place", ofTheSite)
			}
		}
		if l.enter(t.Context(), "192.0.2.1"); l.busy["192.0.2.1"] != 0 {
			t.Error("another network has no place")
		}
		leave()
		synctest.Wait()
		if l.left != maxOfNetwork || l.waiting != 1 || len(l.lines) != 1 || len(l.turns) != 1 {
			t.Errorf("%d have left, %d places are taken by %v", l.left, l.waiting, l.lines)
		}
		if got := l.next(); got != "192.0.2.1" || l.waiting != 0 || len(l.lines)+len(l.turns) != 0 || l.free != 0 {
			t.Errorf("%q had its turn, %d places are taken, %d slots are free", got, l.waiting, l.free)
		}
		for range 2 {
			l.next()
		}
		if l.free != 2 {
			t.Errorf("%d slots are free, want 2", l.free)
		}
	})
}

// Callers of many networks fill the queue. A client of another one gets a place all the
// same, and waits for one caller of each.
func TestQueueIsFair(t *testing.T) {
	for name, addressOf := range map[string]func(n int) string{
		"some addresses":     func(n int) string { return fmt.Sprintf("198.51.100.%d", n%20) },
		"one site of IPv6":   func(n int) string { return fmt.Sprintf("2001:db8:1:%x::1", n) },
		"one address, first": func(n int) string { return fmt.Sprintf("198.51.100.%d", max(n/40, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				l := newCallers(1)
				for n := range 800 {
					l.enter(ctx, addressOf(n))
				}
				const honest = "192.0.2.7"
				if l.enter(ctx, honest); l.busy[honest] != 0 {
					t.Fatal("an honest client is refused")
				}
				if l.waiting > maxWaiting {
					t.Errorf("%d wait", l.waiting)
				}
				networks, turns := len(l.lines), 1
				for ; l.next() != honest && turns < 2*maxWaiting; turns++ {
				}
				if turns > networks {
					t.Errorf("an honest client waits for %d callers of %d networks", turns, networks)
				}
			})
		})
	}
}

// A client that leaves in the moment in which its turn comes loses no slot.
func TestQueueKeepsItsSlots(t *testing.T) {
	q := New(limits(2))
	var all sync.WaitGroup
	for n := range 400 {
		all.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			go leave()
			if free, err := q.Enter(ctx, netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})); err == nil {
				free()
			}
		})
	}
	all.Wait()
	if q.free != 2 || q.waiting != 0 || len(q.lines)+len(q.turns) != 0 {
		t.Errorf("%d slots are free, %d wait in %d lines", q.free, q.waiting, len(q.lines))
	}
}
