package tokencache

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// errResting says that the shared store failed lately and was not asked.
var errResting = errors.New("tokencache: the shared store is left alone after a failure")

// guard stands before the shared store. It bounds what one call may lose to it,
// even if the store ignores its context, and after a failure it leaves the
// store alone for the rest, then lets one call at a time probe it.
//
// Its state follows writes more than reads: a Redis that is full or a read-only
// replica answers reads, and is not back because of that.
type guard struct {
	store  Store
	rest   time.Duration
	logger *slog.Logger
	calls  sync.WaitGroup // calls to the store, abandoned ones too

	mu          sync.Mutex
	away        bool      // the last call that counted failed
	failedWrite bool      // what failed was a write
	retry       time.Time // while away: when the next probe may start
	probing     bool      // while away: a probe is under way
}

// budget is the time that one call of the cache may still spend on the store.
type budget struct{ left time.Duration }

func (g *guard) get(ctx context.Context, b *budget, key Key) (Token, error) {
	return g.call(ctx, b, false, func(ctx context.Context) (Token, error) {
		return g.store.Get(ctx, key)
	})
}

func (g *guard) set(ctx context.Context, b *budget, key Key, token Token) error {
	_, err := g.call(ctx, b, true, func(ctx context.Context) (Token, error) {
		return Token{}, g.store.Set(ctx, key, token)
	})
	return err
}

func (g *guard) delete(ctx context.Context, b *budget, key Key, rejected Token) error {
	_, err := g.call(ctx, b, true, func(ctx context.Context) (Token, error) {
		return Token{}, g.store.Delete(ctx, key, rejected)
	})
	return err
}

// call runs one call to the store within the budget. It returns errResting if
// the store was not asked. No call may begin once wait has been called.
func (g *guard) call(ctx context.Context, b *budget, write bool, op func(context.Context) (Token, error)) (Token, error) {
	admitted, probe := g.admit()
	if !admitted {
		return Token{}, errResting
	}
	start := time.Now()
	bounded, cancel := context.WithTimeout(ctx, b.left)
	defer cancel()

	type answer struct {
		token Token
		err   error
	}
	answers := make(chan answer, 1)
	g.calls.Go(func() {
		token, err := recovered(g.logger, func() (Token, error) { return op(bounded) })
		answers <- answer{token, err}
	})
	var got answer
	select {
	case got = <-answers:
	case <-bounded.Done():
		got.err = bounded.Err()
	}
	b.left -= time.Since(start)
	g.settle(outcomeOf(ctx, got.err), got.err, write, probe)
	return got.token, got.err
}

// admit says whether the store may be called now, and whether that call is the
// probe whose outcome decides if the store is back.
func (g *guard) admit() (admitted, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.away {
		return true, false
	}
	if !g.due() {
		return false, false
	}
	g.probing = true
	return true, true
}

// available says whether a call would be admitted.
func (g *guard) available() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.away || g.due()
}

func (g *guard) due() bool { return !g.probing && !time.Now().Before(g.retry) }

// outcome is what a call tells about the store.
type outcome int

const (
	answered outcome = iota // the store works
	failed
	unknown // the call was given up for reasons of its own
)

func outcomeOf(ctx context.Context, err error) outcome {
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		return answered
	case ctx.Err() != nil:
		return unknown
	default:
		return failed
	}
}

// settle draws the conclusions from a call.
func (g *guard) settle(out outcome, err error, write, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	}
	switch {
	case out == failed:
		if !g.away {
			g.logger.Warn("the shared token cache fails; tokens stay in this instance's memory until it is back. "+
				"Check that Redis runs, can be reached and written, and that cache.redis.url is right",
				"error", err, "retry_after", g.rest)
		}
		g.away, g.failedWrite, g.retry = true, g.failedWrite || write, time.Now().Add(g.rest)
	case out == answered && probe && (write || !g.failedWrite):
		g.away, g.failedWrite = false, false
		g.logger.Info("the shared token cache is back")
	}
}

// wait returns when no call to the store, abandoned or not, is under way.
func (g *guard) wait() { g.calls.Wait() }
