package tokencache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/flight"
)

// Cache gives out tokens: remembered, shared by another instance, or newly
// acquired. All methods may be called concurrently.
type Cache struct {
	memory  *Memory
	shared  atomic.Pointer[guard] // nil without a shared store
	scope   *flight.Scope
	flights *flight.Group[Key, Token]

	logger         *slog.Logger
	metrics        *Metrics
	advice         func(error) string
	sharedTimeout  time.Duration
	sharedPause    time.Duration
	acquireTimeout time.Duration
}

// New returns a cache over memory and a shared store, which may be nil.
func New(memory *Memory, shared Store, options ...Option) *Cache {
	scope := flight.NewScope()
	c := &Cache{
		memory:         memory,
		scope:          scope,
		flights:        flight.NewGroup[Key, Token](scope),
		logger:         slog.Default(),
		advice:         func(error) string { return "" },
		sharedTimeout:  defaultSharedTimeout,
		sharedPause:    defaultSharedPause,
		acquireTimeout: defaultAcquireTimeout,
	}
	for _, option := range options {
		option(c)
	}
	c.Share(shared)
	return c
}

// Share replaces the shared store; nil stands for none. Tokens stay in memory. Share
// returns when no call to the earlier store is under way.
func (c *Cache) Share(shared Store) {
	var next *guard
	if shared != nil {
		next = newGuard(shared, c.sharedPause, c.logger, c.advice)
	}
	if last := c.shared.Swap(next); last != nil {
		last.close()
	}
}

// Token returns a usable token for the key: from memory, else from the shared
// store, else from acquire. Callers that ask for one key at the same time share
// one call of acquire and its outcome; an error is not remembered.
//
// The context given to acquire has the values of the first caller's, but ends
// only with the flight. Token returns acquire's error as it is, ctx's error if
// ctx is done first, and ErrClosed after Close.
func (c *Cache) Token(ctx context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	entry, ok := c.memory.lookup(key)
	c.metrics.memory(ok)
	if ok {
		if shared := c.sharedFor(key); !entry.shared && shared != nil {
			c.shareLate(shared, key, entry.token)
		}
		return entry.token, nil
	}
	return c.join(ctx, key, acquire)
}

// join waits for the flight of a key, which it starts if there is none.
func (c *Cache) join(ctx context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	if err := ctx.Err(); err != nil {
		return Token{}, err // a caller that has left starts no flight
	}
	result, err := c.flights.Do(ctx, key, func(ctx context.Context) (Token, error) {
		return catchPanic(c.logger, func() (Token, error) { return c.fly(ctx, key, acquire) })
	})
	switch {
	case err == nil:
		return result.Value, nil
	case ctx.Err() != nil && err == context.Cause(ctx):
		return Token{}, ctx.Err() // the caller left, and the flight goes on
	case errors.Is(err, flight.ErrClosed):
		return Token{}, ErrClosed
	default:
		return Token{}, err
	}
}

// fly gets a token from the shared store or acquires it.
func (c *Cache) fly(ctx context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	// Another flight may have ended between the caller's lookup and this flight.
	if entry, ok := c.memory.lookup(key); ok {
		return entry.token, nil
	}
	allowed := budget{c.sharedTimeout}
	if token, ok := c.readShared(ctx, &allowed, key); ok {
		return token, nil
	}
	acquiring, cancelAcquiring := context.WithTimeout(ctx, c.acquireTimeout)
	defer cancelAcquiring()
	token, err := acquire(acquiring)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), flight.ErrClosed):
		return Token{}, ErrClosed // and no context error, which would look like the caller's own
	case err != nil:
		return Token{}, err
	}
	// A token service may issue a token that has expired already. The caller may
	// try it, but it is not worth keeping.
	if token.Usable(time.Now()) {
		c.memory.Set(ctx, key, token)
		c.writeShared(ctx, &allowed, key, token)
	}
	return token, nil
}

// Invalidate forgets a token that its registry refused, here and in the shared
// store. A newer token stays in both.
func (c *Cache) Invalidate(ctx context.Context, key Key, rejected Token) {
	if !c.memory.reject(key, rejected) {
		return
	}
	// A flight under way may just have read the rejected token from the shared
	// store: later callers start a new flight, which ignores that token.
	c.flights.Forget(key)
	shared := c.sharedFor(key)
	if shared == nil {
		return
	}
	ctx, done, err := c.scope.Begin(ctx)
	if err != nil {
		return // closed; the other instances will be refused once themselves
	}
	defer done()
	err = shared.delete(ctx, &budget{c.sharedTimeout}, key, rejected)
	c.metrics.sharedWrite(err)
}

// Close cancels flights and waits until nothing that the cache started is under
// way. Tokens in memory are still given out. A second Close does nothing. The
// shared store stays the caller's to close, after this. The error is always nil.
func (c *Cache) Close() error {
	c.scope.Close()
	if shared := c.shared.Load(); shared != nil {
		shared.close()
	}
	return nil
}

// sharedFor returns the shared store for the token of a key, nil if there is none.
func (c *Cache) sharedFor(key Key) *guard {
	if key.Private {
		return nil
	}
	return c.shared.Load()
}

func (c *Cache) readShared(ctx context.Context, allowed *budget, key Key) (Token, bool) {
	shared := c.sharedFor(key)
	if shared == nil {
		return Token{}, false
	}
	token, err := shared.get(ctx, allowed, key)
	usable := err == nil && c.memory.adopt(key, token)
	c.metrics.sharedRead(usable, err)
	return token, usable
}

func (c *Cache) writeShared(ctx context.Context, allowed *budget, key Key, token Token) {
	shared := c.sharedFor(key)
	if shared == nil || !c.memory.setShared(key, token, true) {
		return
	}
	c.write(ctx, shared, allowed, key, token)
}

// shareLate writes a token that was acquired while the shared store was unavailable. It
// does so in the background, so that the caller of Token does not wait.
func (c *Cache) shareLate(shared *guard, key Key, token Token) {
	if !shared.available() {
		return
	}
	ctx, done, err := c.scope.Begin(context.Background())
	if err != nil {
		return // closed
	}
	if !c.memory.setShared(key, token, true) {
		done() // another caller shares it
		return
	}
	go func() {
		defer done()
		c.write(ctx, shared, &budget{c.sharedTimeout}, key, token)
	}()
}

// write gives the shared store a token that is already marked as shared, so that
// no other caller writes it too, and takes the mark back if that fails.
func (c *Cache) write(ctx context.Context, shared *guard, allowed *budget, key Key, token Token) {
	err := shared.set(ctx, allowed, key, token)
	if err != nil {
		c.memory.setShared(key, token, false)
	}
	c.metrics.sharedWrite(err)
}

// catchPanic calls f and makes a panic its error: in a goroutine of the cache
// it would end the process and all its transfers.
func catchPanic(logger *slog.Logger, f func() (Token, error)) (token Token, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			logger.Error("panic while getting a token", "cause", cause, "stack", string(debug.Stack()))
			token, err = Token{}, fmt.Errorf("tokencache: panic while getting a token: %v", cause)
		}
	}()
	return f()
}
