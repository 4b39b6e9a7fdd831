package tokencache

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/cooldown"
	"github.com/weirhq/weir/internal/episode"
)

// errCoolingDown says that the shared store failed recently and was not asked.
var errCoolingDown = errors.New("tokencache: the shared store cools down after a failure")

// guard stands before the shared store. It bounds the time that one call may
// lose to the store, even if the store ignores its context, and holds the store's
// circuit breaker.
//
// After a failed write only a write closes the breaker: a Redis that is full, or a
// read-only replica, answers reads and yet cannot share a token.
type guard struct {
	store  Store
	pause  time.Duration
	logger *slog.Logger
	advice func(error) string
	calls  sync.WaitGroup   // calls to the store, abandoned ones too; begun under mu
	away   *episode.Episode // for the log

	mu          sync.Mutex
	breaker     cooldown.Breaker
	failedWrite bool // a write failed since the breaker was closed
	closed      bool // no further call begins
}

func newGuard(store Store, pause time.Duration, logger *slog.Logger, advice func(error) string) *guard {
	return &guard{
		store: store, pause: pause, logger: logger, advice: advice, breaker: cooldown.New(cooldown.Options{Pause: pause}),
		// A store that answers one call and fails the next one is not back.
		away: episode.New(2*pause, func() { logger.Info("the shared token cache is back") }),
	}
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

// call runs one call to the store within the budget. It returns errCoolingDown if
// the store was not asked.
func (g *guard) call(ctx context.Context, b *budget, write bool, op func(context.Context) (Token, error)) (Token, error) {
	admitted, probe := g.admit()
	if !admitted {
		return Token{}, errCoolingDown
	}
	start := time.Now()
	bounded, cancel := context.WithTimeout(ctx, b.left)
	defer cancel()

	type answer struct {
		token Token
		err   error
	}
	answers := make(chan answer, 1) // buffered, so that an abandoned call can end
	go func() {
		defer g.calls.Done()
		token, err := catchPanic(g.logger, func() (Token, error) {
			if err := g.ready(bounded, probe); err != nil {
				return Token{}, err
			}
			return op(bounded)
		})
		answers <- answer{token, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-bounded.Done():
		// The store ignores its context: the call is abandoned, and close waits.
		got.err = bounded.Err()
	}
	b.left -= time.Since(start)
	g.settle(outcomeOf(ctx, got.err), got.err, write, probe)
	return got.token, got.err
}

// whole is a [Store] of several servers, of which some may work and others not.
type whole interface {
	// Ready returns an error unless all servers work.
	Ready(ctx context.Context) error
}

// ready returns an error if a call is a probe and a part of the store fails: the next
// call may need that part.
func (g *guard) ready(ctx context.Context, probe bool) error {
	if store, ok := g.store.(whole); ok && probe {
		return store.Ready(ctx)
	}
	return nil
}

// admit reports whether the store may be called now, and whether that call is
// the probe whose outcome decides if the store is back. A call that is admitted
// ends with calls.Done.
func (g *guard) admit() (admitted, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false, false
	}
	admitted, probe = g.breaker.Allow(time.Now())
	if admitted {
		g.calls.Add(1)
	}
	return admitted, probe
}

// available reports whether a call would be admitted.
func (g *guard) available() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.closed && (g.breaker.Closed() || g.breaker.HalfOpen(time.Now()))
}

// outcome is the result of a call as far as it concerns the store's health.
type outcome int

const (
	answered outcome = iota // the store works
	failed
	unknown // the caller gave up, so the call says nothing about the store
)

func outcomeOf(ctx context.Context, err error) outcome {
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		return answered
	case ctx.Err() != nil: // of the flight, not of the guard's own time limit
		return unknown
	default:
		return failed
	}
}

// settle moves the breaker by the outcome of a call, and logs a change, under no
// lock.
func (g *guard) settle(out outcome, err error, write, probe bool) {
	switch g.conclude(out, write, probe) {
	case stopped:
		if g.away.Bad() {
			g.logger.Warn(strings.TrimSpace("the shared token cache fails. Tokens stay in this instance's memory until it is back. "+g.advice(err)),
				"error", err, "retry_after", g.pause)
		}
	case recovered:
		g.away.Good()
	}
}

// change is how a call changed the use of the store.
type change int

const (
	none change = iota
	stopped
	recovered
)

// conclude moves the breaker by the outcome of a call.
func (g *guard) conclude(out outcome, write, probe bool) change {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		// The caller replaced the store, so its failures have no effect.
	case out == failed:
		first := g.breaker.Closed()
		g.failedWrite = g.failedWrite || write
		g.breaker.Failure(time.Now())
		if first { // the others failed for the same reason
			return stopped
		}
	case !probe:
		// Only the probe decides that the store is back: other calls began
		// before the store failed.
	case out == answered && (write || !g.failedWrite):
		g.failedWrite = false
		g.breaker.Success()
		return recovered
	default:
		// The caller of the probe gave up, or a read worked after a write had
		// failed: the next call probes again.
		g.breaker.Abandon()
	}
	return none
}

// close refuses further calls, and returns when no call to the store, abandoned or
// not, is under way.
func (g *guard) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.calls.Wait()
}
