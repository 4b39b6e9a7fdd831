package flight

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is the error of calls that are refused because their scope drains or
// is closed, and the cause of the context of calls that Close cancels.
var ErrClosed = errors.New("closed")

// Scope owns detached work. All methods may be called concurrently.
type Scope struct {
	ctx    context.Context // ends when Close begins
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	running int
	refuse  bool          // set by Drain and Close
	idle    chan struct{} // closed when refuse is set and running is 0
}

// NewScope returns a scope without work. The caller closes it.
func NewScope() *Scope {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Scope{ctx: ctx, cancel: cancel, idle: make(chan struct{})}
}

// Begin registers a piece of work. The returned context has the values of ctx,
// but ends only when the scope is closed or done is called. The caller calls
// done once, when the work has ended. Begin returns ErrClosed once the scope
// drains or is closed.
func (s *Scope) Begin(ctx context.Context) (detached context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		return nil, nil, ErrClosed
	}
	s.running++
	detached, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	// detached has no parent that ends, so the end of the scope is passed on.
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })
	return detached, func() {
		stop()
		cancel(nil) // frees the context
		s.end()
	}, nil
}

func (s *Scope) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	// Before refuse is set, another piece of work may begin.
	if s.refuse && s.running == 0 {
		close(s.idle)
	}
}

// Drain refuses new work and waits until none is under way. It returns ctx's
// error if ctx is done first; work that still runs is not cancelled then.
func (s *Scope) Drain(ctx context.Context) error {
	s.stop()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close refuses new work, cancels the work that is under way, and waits for its
// end. A second Close does nothing.
func (s *Scope) Close() {
	s.stop()
	s.cancel(ErrClosed)
	<-s.idle
}

// stop refuses new work from now on.
func (s *Scope) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		return // idle is closed already, or the last end closes it
	}
	s.refuse = true
	if s.running == 0 {
		close(s.idle)
	}
}
