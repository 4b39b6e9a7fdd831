package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Group shares calls between callers that ask for the same key at the same time.
// All methods may be called concurrently.
type Group[K comparable, V any] struct {
	scope *Scope

	mu    sync.Mutex
	calls map[K]*call[V] // those under way, but for forgotten ones
}

// grace is how long a call goes on without callers. A client that lost its connection
// asks again within it, and finds the call.
const grace = 2 * time.Second

// setbackGrace is that time after a setback. A question that is asked again comes to its end
// by then, even if each try takes more than a second.
const setbackGrace = 10 * time.Second

// ErrUnwanted is the cause of the context of calls that no caller waits for any more.
var ErrUnwanted = errors.New("no caller waits for the result")

// call is one run of a function. The value and the error are set before done is closed.
type call[V any] struct {
	leader context.Context // of the caller that started it
	cancel context.CancelCauseFunc
	done   chan struct{}
	value  V
	err    error

	// The group's mutex guards these.
	waiting   int         // callers
	admitted  bool        // it runs
	unwanted  *time.Timer // since the last caller has left; nil before
	forgotten *time.Timer // frees the key after the setback; nil before

	// The setback is set before hurt is closed.
	hurt    chan struct{}
	setback error
}

// NewGroup returns a group whose calls belong to a scope.
func NewGroup[K comparable, V any](scope *Scope) *Group[K, V] {
	return &Group[K, V]{scope: scope, calls: make(map[K]*call[V])}
}

// Result is the outcome of a call for one of its callers.
type Result[V any] struct {
	Value V
	Led   bool // this caller's Do started the call
	// Leader is the context of the caller that started the call. It may have
	// ended; its values, such as a trace span, name the request that paid.
	Leader context.Context
}

// Admit waits until a call may run. The call ends with release. An error ends the call.
type Admit func(context.Context) (release func(), err error)

// Terms are those of a caller of DoOn.
type Terms struct {
	Admit Admit // nil: the call runs at once
	// Heed reports whether the caller leaves with a setback of the call; nil: it never does.
	Heed func(setback error) bool
}

// Do runs f, or joins the call of the key that is under way, and returns its
// value. f's context has the values of the starting caller's, but ends only when
// the scope is closed or, with ErrUnwanted, some seconds after the last caller has left.
// Nothing is remembered: a call that starts after another one has ended runs f again.
//
// Do returns f's error as it is, a *PanicError if f panicked, the cause of ctx
// if that ends before the call, and ErrClosed after the scope's Drain or Close.
// A caller whose context has ended already still starts the call.
func (g *Group[K, V]) Do(ctx context.Context, key K, f func(context.Context) (V, error)) (Result[V], error) {
	return g.DoAdmitted(ctx, key, nil, f)
}

// DoAdmitted is Do of a call that admit lets run; nil does so at once. A call that still
// waits for that ends as soon as its last caller leaves: it has cost nothing.
func (g *Group[K, V]) DoAdmitted(ctx context.Context, key K, admit Admit, f func(context.Context) (V, error)) (Result[V], error) {
	return g.DoOn(ctx, key, Terms{Admit: admit}, func(ctx context.Context, _ func(error)) (V, error) { return f(ctx) })
}

// DoOn is DoAdmitted of a function that may report a setback, a failure after which it goes on.
// Callers that heed the setback return with it, and so do those that come within the next
// seconds. The call goes on without them, for some seconds more than others. Later callers
// start a call of their own, so that a call which hangs does not stand for the present.
func (g *Group[K, V]) DoOn(ctx context.Context, key K, terms Terms, f func(ctx context.Context, setback func(error)) (V, error)) (Result[V], error) {
	c, led, err := g.join(ctx, key, terms.Admit, f)
	if err != nil {
		return Result[V]{}, err // the scope is closed
	}
	return g.wait(ctx, key, c, led, terms.Heed)
}

// Join is DoOn of a caller that starts no call: it reports false if none is under way. It
// allocates nothing. So a caller that often joins does so before it makes the function of a
// call.
func (g *Group[K, V]) Join(ctx context.Context, key K, heed func(setback error) bool) (r Result[V], ok bool, err error) {
	g.mu.Lock()
	c := g.calls[key]
	if c != nil {
		c.enter()
	}
	g.mu.Unlock()
	if c == nil {
		return Result[V]{}, false, nil
	}
	r, err = g.wait(ctx, key, c, false, heed)
	return r, true, err
}

// wait returns the result of a call for one of its callers.
func (g *Group[K, V]) wait(ctx context.Context, key K, c *call[V], led bool, heed func(setback error) bool) (Result[V], error) {
	hurt := c.hurt
	if heed == nil {
		hurt = nil
	}
	for {
		select {
		case <-c.done:
			return Result[V]{Value: c.value, Led: led, Leader: c.leader}, c.err
		case <-hurt:
			if hurt = nil; !c.ended() && heed(c.setback) {
				g.leave(key, c)
				return Result[V]{Led: led, Leader: c.leader}, c.setback
			}
		case <-ctx.Done():
			g.leave(key, c)
			return Result[V]{Led: led, Leader: c.leader}, context.Cause(ctx)
		}
	}
}

// Forget lets the next caller of a key start a call of its own, even while one
// is under way. Callers that have joined that one still get its value.
func (g *Group[K, V]) Forget(key K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.calls, key)
}

// join returns the call of a key, which it starts if there is none.
func (g *Group[K, V]) join(ctx context.Context, key K, admit Admit,
	f func(ctx context.Context, setback func(error)) (V, error),
) (c *call[V], led bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		c.enter()
		return c, false, nil
	}
	detached, done, err := g.scope.Begin(ctx)
	if err != nil {
		return nil, false, err
	}
	detached, cancel := context.WithCancelCause(detached)
	c = &call[V]{leader: ctx, cancel: cancel, done: make(chan struct{}), hurt: make(chan struct{}), waiting: 1, admitted: admit == nil}
	g.calls[key] = c
	go func() {
		// Last, so that the scope is idle only when the key is free again.
		defer done()
		defer cancel(nil)
		defer g.remove(key, c)
		c.run(detached, func(ctx context.Context) (none V, err error) {
			if admit != nil {
				release, err := admit(ctx)
				if err != nil {
					return none, err
				}
				defer release()
			}
			if err := g.begin(c); err != nil {
				return none, err
			}
			return f(ctx, func(failure error) { g.hurt(key, c, failure) })
		})
	}()
	return c, true, nil
}

// hurt notes the first setback of a call, for its callers.
func (g *Group[K, V]) hurt(key K, c *call[V], failure error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.forgotten != nil {
		return
	}
	c.setback = failure
	close(c.hurt)
	c.forgotten = time.AfterFunc(grace, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.calls[key] == c { // else the call has ended
			delete(g.calls, key)
		}
	})
}

// enter counts a further caller. The caller holds the mutex.
func (c *call[V]) enter() {
	if c.waiting++; c.unwanted != nil {
		c.unwanted.Stop()
	}
}

// begin notes that a call runs. It returns ErrUnwanted if the call was abandoned in the
// moment in which it was admitted.
func (g *Group[K, V]) begin(c *call[V]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !c.admitted && c.waiting == 0 {
		return ErrUnwanted
	}
	c.admitted = true
	return nil
}

// leave ends the wait of a caller. After the last one, a call that runs has some time left.
func (g *Group[K, V]) leave(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiting--
	left := grace
	if c.setback != nil {
		left = setbackGrace
	}
	switch {
	case c.waiting > 0:
	case !c.admitted:
		g.giveUp(key, c)
	case c.unwanted != nil:
		c.unwanted.Reset(left)
	default:
		c.unwanted = time.AfterFunc(left, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if c.waiting == 0 { // else a caller came at the last moment
				g.giveUp(key, c)
			}
		})
	}
}

// giveUp cancels a call. No caller joins it any more. The caller holds the mutex.
func (g *Group[K, V]) giveUp(key K, c *call[V]) {
	if g.calls[key] == c {
		delete(g.calls, key)
	}
	c.cancel(ErrUnwanted)
}

// remove ends a call for its callers, and frees its key unless another call has
// it by now.
func (g *Group[K, V]) remove(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls[key] == c { // else the key was forgotten
		delete(g.calls, key)
	}
	if c.unwanted != nil {
		c.unwanted.Stop()
	}
	if c.forgotten != nil {
		c.forgotten.Stop()
	}
	close(c.done)
}

// ended reports whether the result of a call is there.
func (c *call[V]) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// run calls f and keeps its results.
func (c *call[V]) run(ctx context.Context, f func(context.Context) (V, error)) {
	returned := false
	defer func() {
		// A panic, or runtime.Goexit, for which recover returns nil.
		if !returned {
			c.err = &PanicError{Value: recover(), Stack: debug.Stack()}
		}
	}()
	c.value, c.err = f(ctx)
	returned = true
}

// PanicError is the error of a call that panicked or ended its goroutine.
type PanicError struct {
	Value any // of the panic; nil if the goroutine ended
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }
