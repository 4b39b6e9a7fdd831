// Package bulk bounds how many long untrusted documents are in memory at once, such as
// lists of a registry. Decoded, and written again as a record, one takes many times its
// length.
//
// A [Pool] has a number of places. Each party, such as a mirrored registry, has a [Share]
// of it. Of a share only that many callers wait for the pool as may have a place, and these
// get it in the order of their arrival. While others wait, a document has to come fast
// enough to keep its place. So no party keeps the others away, however many callers it has,
// and however slow its documents are.
package bulk

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// grace is how long a document has its place in any case. A list of 8 MiB takes less
	// on most lines.
	grace = 15 * time.Second
	// speed is the average, in bytes per second, that a document needs to keep its place
	// after that while others wait: that of a slow line. The longest takes a minute then.
	speed = 128 << 10
	// poll is how often a read that waits for bytes looks whether others wait for its place.
	poll = time.Second
)

// ErrTooSlow says that a document came too slowly to keep its place while others wait.
var ErrTooSlow = errors.New("the document arrives too slowly, and other documents wait for its place in memory")

// Pool has the places of all parties.
type Pool struct {
	places  *semaphore.Weighted
	waiting atomic.Int64 // callers of all parties that wait for the pool
}

// NewPool returns a pool of n places.
func NewPool(n int) *Pool { return &Pool{places: semaphore.NewWeighted(int64(n))} }

// Share returns the share of one party, which has n places at most.
func (p *Pool) Share(n int) *Share { return &Share{pool: p, own: semaphore.NewWeighted(int64(n))} }

// Share has the places of one party. Its methods may be called concurrently.
type Share struct {
	pool *Pool
	own  *semaphore.Weighted
}

// Take waits for a place. It returns ctx's error if that ends first.
func (s *Share) Take(ctx context.Context) (release func(), err error) {
	if err := s.own.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	s.pool.waiting.Add(1)
	defer s.pool.waiting.Add(-1)
	if err := s.pool.places.Acquire(ctx, 1); err != nil {
		s.own.Release(1)
		return nil, err
	}
	return func() {
		s.pool.places.Release(1)
		s.own.Release(1)
	}, nil
}

type key struct{}

// work is a call that may take a place.
type work struct {
	share *Share

	mu      sync.Mutex
	release func()    // nil: it has no place
	since   time.Time // it has its place
	bytes   int64     // that came since then
}

// Within returns a function that calls f and gives back the place that f has taken by
// [Enter], if any, after f has returned.
func Within[V any](s *Share, f func(context.Context) (V, error)) func(context.Context) (V, error) {
	return func(ctx context.Context) (V, error) {
		w := &work{share: s}
		defer w.leave()
		return f(context.WithValue(ctx, key{}, w))
	}
}

// Enter waits for a place for the work that the context belongs to, see [Within], unless
// it has one. Other work needs none. Enter returns ctx's error if that ends first.
func Enter(ctx context.Context) error {
	w, ok := ctx.Value(key{}).(*work)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.release != nil {
		return nil
	}
	release, err := w.share.Take(ctx)
	w.release, w.since = release, time.Now()
	return err
}

// Advance counts n more bytes of a document of the work that the context belongs to. It
// returns ErrTooSlow if the work has had a place for more than 15 s, its documents came
// with less than 128 KiB/s since then, and others wait for a place.
func Advance(ctx context.Context, n int) error {
	w, ok := ctx.Value(key{}).(*work)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.release == nil {
		return nil
	}
	w.bytes += int64(n)
	if w.tooSlow() {
		return ErrTooSlow
	}
	return nil
}

// tooSlow reports whether the work has to leave. The caller holds the mutex.
func (w *work) tooSlow() bool {
	had := time.Since(w.since)
	return had > grace && float64(w.bytes) < had.Seconds()*speed && w.share.pool.waiting.Load() > 0
}

// Watch calls end as soon as [Advance] would return ErrTooSlow for the work that the context
// belongs to, until stop is called: no byte may come that would call it. Work without a place
// is not watched.
func Watch(ctx context.Context, end func()) (stop func()) {
	w, ok := ctx.Value(key{}).(*work)
	if !ok {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.release == nil {
		return func() {}
	}
	var timer *time.Timer
	stopped := false
	timer = time.AfterFunc(max(grace-time.Since(w.since), poll), func() {
		w.mu.Lock()
		ends := !stopped && w.tooSlow()
		if !stopped && !ends {
			timer.Reset(poll)
		}
		w.mu.Unlock()
		if ends {
			end()
		}
	})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

func (w *work) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.release != nil {
		w.release()
	}
}
