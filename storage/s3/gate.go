package s3

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/cooldown"
	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/storage"
)

const (
	// failuresToPause is how many requests fail in a row before none is sent: one may be
	// chance, and each costs its caller time.
	failuresToPause = 3
	firstPause      = 5 * time.Second
	longestPause    = time.Minute
	// calm is how long requests have to succeed before the log reports a failure as over.
	calm = 10 * time.Second
)

// gate is the circuit breaker of a bucket's requests, or of the bodies of its content.
type gate struct {
	logger  *slog.Logger
	pausing func(bool) // for the metrics
	trouble *episode.Episode

	mu      sync.Mutex
	breaker cooldown.Breaker
	last    error // that of the last failure; nil after a success
	refused error // if set, no request is sent any more
}

func newGate(logger *slog.Logger, pausing func(bool)) *gate {
	return &gate{
		logger: logger, pausing: pausing,
		breaker: cooldown.New(cooldown.Options{Threshold: failuresToPause, Pause: firstPause, MaxPause: longestPause}),
		trouble: episode.New(calm, func() { logger.Info("the bucket works again") }),
	}
}

// pass is the leave to send a request.
type pass struct {
	gate  *gate
	probe bool
}

// enter returns the leave to send a request, or an error that matches ErrPaused.
func (g *gate) enter(now time.Time) (pass, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused != nil {
		return pass{}, fmt.Errorf("%w: %w", ErrPaused, g.refused)
	}
	allowed, probe := g.breaker.Allow(now)
	if !allowed {
		return pass{}, fmt.Errorf("%w: %w", ErrPaused, g.last)
	}
	return pass{g, probe}, nil
}

// abandon ends a request that nothing was learned from.
func (p pass) abandon() {
	if !p.probe {
		return
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.gate.breaker.Abandon()
}

// end notes the outcome of a request.
func (p pass) end(err error) {
	g := p.gate
	if g == nil { // of a survey
		return
	}
	g.mu.Lock()
	failed := isTrouble(err)
	if failed {
		g.last = err
		g.breaker.Failure(time.Now())
	} else {
		g.last = nil
		g.breaker.Success()
	}
	closed := g.breaker.Closed()
	g.mu.Unlock()
	g.pausing(!closed)
	// The log, which can be slow, is written without the mutex.
	switch {
	case !failed:
		g.trouble.Good()
	case !closed && g.trouble.Bad():
		g.logger.Error("the bucket cannot be used. Pulls continue from the local tier and from upstream", "error", err)
	}
}

// isTrouble reports whether a failure is one of the server, and not of the request.
func isTrouble(err error) bool {
	if err == nil || errors.Is(err, storage.ErrNotExist) {
		return false
	}
	switch ReasonOf(err) {
	case Conflict, Unsupported, Bounds, Format:
		return false
	default:
		return true
	}
}

// refuse closes the gate for good, if the keys in the bucket are of another format.
func (g *gate) refuse(err error) {
	if ReasonOf(err) != Format {
		return
	}
	g.mu.Lock()
	g.refused = err
	g.mu.Unlock()
	g.pausing(true)
}

func (g *gate) paused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused != nil || !g.breaker.Closed() && !g.breaker.HalfOpen(time.Now())
}

func (g *gate) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.refused != nil:
		return g.refused
	case g.breaker.Closed():
		return nil
	default:
		return g.last
	}
}
