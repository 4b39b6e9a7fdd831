package namespace

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxLookups is how many lookups of a namespace run at once. One takes about a round
	// trip, so some hundred of them end in a second.
	maxLookups = 64
	// maxWaiting is how many more wait. All nodes of a large fleet may ask for different
	// images at the same moment.
	maxWaiting = 2048
	// maxWait is how long a lookup waits at most: clients try again after 503, and many do
	// not after a timeout of their own.
	maxWait = 30 * time.Second
	// patience is that time if the cache has an answer, so that a hanging upstream delays
	// no cached tag. A burst at a registry that answers is over by then.
	patience = time.Second
	// maxLookupTime bounds a lookup that runs. Each request of it has limits of its own, but
	// a list may have a hundred pages and a namespace many upstreams. No client waits longer.
	maxLookupTime = 5 * time.Minute
)

// BusyError says that a lookup did not begin, because too many of its namespace are under
// way. It says nothing about an upstream.
type BusyError struct{ Namespace string } // its key

func (e *BusyError) Error() string {
	return "too many lookups of " + e.Namespace + " are under way. Try again later"
}

func (n *Namespace) busy() *BusyError { return &BusyError{n.Key()} }

// places bounds the lookups of one namespace that run at once, in the order of their
// arrival. No other namespace waits for them, so an upstream that hangs delays its own
// namespace only.
type places struct {
	free             *semaphore.Weighted
	running, waiting atomic.Int64 // for metrics, and for the bound of waiting lookups
}

func newPlaces() *places { return &places{free: semaphore.NewWeighted(maxLookups)} }

// acquire waits for a place, which release gives back. It reports false if there is none
// in time, and returns the cause of the context if that ends first. standIn reports whether
// the cache has an answer if there is no place.
func (p *places) acquire(ctx context.Context, standIn func(context.Context) bool) (ok bool, err error) {
	if p.free.TryAcquire(1) {
		p.running.Add(1)
		return true, nil
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > maxWaiting {
		return false, nil
	}
	longest := maxWait
	if standIn(ctx) {
		longest = patience
	}
	waiting, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if err := p.free.Acquire(waiting, 1); err == nil {
		p.running.Add(1)
		return true, nil
	}
	return false, context.Cause(ctx)
}

func (p *places) release() {
	p.running.Add(-1)
	p.free.Release(1)
}

// load returns how many lookups run and wait now.
func (p *places) load() (running, waiting int64) { return p.running.Load(), p.waiting.Load() }
