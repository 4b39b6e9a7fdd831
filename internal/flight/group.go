package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// Group shares calls between callers that ask for the same key at the same time.
// All methods may be called concurrently.
type Group[K comparable, V any] struct {
	scope *Scope

	mu    sync.Mutex
	calls map[K]*call[V] // those under way, but for forgotten ones
}

// call is one run of a function. The fields below done are set before done is
// closed.
type call[V any] struct {
	leader context.Context // of the caller that started it
	done   chan struct{}
	value  V
	err    error
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

// Do runs f, or joins the call of the key that is under way, and returns its
// value. f's context has the values of the starting caller's, but ends only when
// the scope is closed. Nothing is remembered: a call that starts after another
// one has ended runs f again.
//
// Do returns f's error as it is, a *PanicError if f panicked, the cause of ctx
// if that ends before the call, and ErrClosed after the scope's Drain or Close.
// A caller whose context has ended already still starts the call.
func (g *Group[K, V]) Do(ctx context.Context, key K, f func(context.Context) (V, error)) (Result[V], error) {
	c, led, err := g.join(ctx, key, f)
	if err != nil {
		return Result[V]{}, err // the scope is closed
	}
	select {
	case <-c.done:
		return Result[V]{Value: c.value, Led: led, Leader: c.leader}, c.err
	case <-ctx.Done():
		// The call goes on: other callers wait for it, or the cache wants its value.
		return Result[V]{Led: led, Leader: c.leader}, context.Cause(ctx)
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
func (g *Group[K, V]) join(ctx context.Context, key K, f func(context.Context) (V, error)) (c *call[V], led bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		return c, false, nil
	}
	detached, done, err := g.scope.Begin(ctx)
	if err != nil {
		return nil, false, err
	}
	c = &call[V]{leader: ctx, done: make(chan struct{})}
	g.calls[key] = c
	go func() {
		// Last, so that the scope is idle only when the key is free again.
		defer done()
		defer g.remove(key, c)
		c.run(detached, f)
	}()
	return c, true, nil
}

// remove ends a call for its callers, and frees its key unless another call has
// it by now.
func (g *Group[K, V]) remove(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls[key] == c { // else the key was forgotten
		delete(g.calls, key)
	}
	close(c.done)
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
