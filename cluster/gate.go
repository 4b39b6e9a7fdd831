package cluster

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/episode"
)

// callTimeout bounds one call to Redis, which a download may wait for.
const callTimeout = 500 * time.Millisecond

// errAway says that Redis is not asked, since it failed recently or there is none.
var errAway = errors.New("cluster: Redis is unavailable")

// gate stands before Redis. After a failure it lets no call through until probe has
// succeeded, so that one download at most waits for a Redis that hangs.
type gate struct {
	logger  *slog.Logger
	advice  func(error) string
	trouble *episode.Episode

	mu     sync.Mutex
	board  board // nil: there is none
	prefix string
	away   bool // since the last failure
}

func newGate(logger *slog.Logger, advice func(error) string) *gate {
	return &gate{logger: logger, advice: advice, trouble: episode.New(2*time.Second, func() {
		logger.Info("replicas coordinate through Redis again")
	})}
}

// use replaces the board.
func (g *gate) use(b board, prefix string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.board, g.prefix, g.away = b, prefix, false
}

// usable returns the board, or nil while no call is let through.
func (g *gate) usable() (b board, prefix string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away {
		return nil, ""
	}
	return g.board, g.prefix
}

// call runs one call. It returns errAway if Redis was not asked. The end of ctx is no
// failure of Redis.
func (g *gate) call(ctx context.Context, op func(ctx context.Context, b board, prefix string) error) error {
	b, prefix := g.usable()
	if b == nil {
		return errAway
	}
	err := limited(ctx, func(ctx context.Context) error { return op(ctx, b, prefix) })
	if err != nil && ctx.Err() == nil {
		g.failed(b, err)
	}
	return err
}

// probe runs a call that decides whether Redis is back, while it is unavailable.
func (g *gate) probe(ctx context.Context, op func(ctx context.Context, b board, prefix string) error) error {
	g.mu.Lock()
	b, prefix, away := g.board, g.prefix, g.away
	g.mu.Unlock()
	if b == nil {
		return errAway
	}
	err := limited(ctx, func(ctx context.Context) error {
		if away {
			if err := b.Ready(ctx); err != nil {
				return err
			}
		}
		return op(ctx, b, prefix)
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		g.failed(b, err)
	default:
		g.trouble.Good()
		g.mu.Lock()
		if g.board == b {
			g.away = false
		}
		g.mu.Unlock()
	}
	return err
}

func limited(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return op(ctx)
}

// failed closes the gate, unless the board has been replaced.
func (g *gate) failed(b board, err error) {
	g.mu.Lock()
	current := g.board == b
	if current {
		g.away = true
	}
	g.mu.Unlock()
	if current && g.trouble.Bad() {
		g.logger.Warn(strings.TrimSpace("replicas do not coordinate until Redis is back. Each one downloads independently. "+g.advice(err)), "error", err)
	}
}
