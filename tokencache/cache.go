package tokencache

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Cache gives out tokens: remembered, shared by another instance, or newly
// acquired. All methods may be called concurrently.
type Cache struct {
	memory  *Memory
	shared  *guard // nil without a shared store
	flights singleflight.Group

	logger         *slog.Logger
	metrics        *Metrics
	sharedTimeout  time.Duration
	sharedPause    time.Duration
	acquireTimeout time.Duration

	closing context.Context // done when Close has begun
	close   context.CancelFunc
	mu      sync.Mutex     // orders begin and Close
	work    sync.WaitGroup // flights and what runs in the background
}

// New returns a cache over memory and a shared store, which may be nil.
func New(memory *Memory, shared Store, options ...Option) *Cache {
	c := &Cache{
		memory:         memory,
		logger:         slog.Default(),
		sharedTimeout:  defaultSharedTimeout,
		sharedPause:    defaultSharedPause,
		acquireTimeout: defaultAcquireTimeout,
	}
	for _, option := range options {
		option(c)
	}
	c.closing, c.close = context.WithCancel(context.Background())
	if shared != nil {
		c.shared = newGuard(shared, c.sharedPause, c.logger)
	}
	return c
}

// Token returns a usable token for the key: from memory, else from the shared
// store, else from acquire. Callers who ask for one key at the same time share
// one call of acquire and its outcome; an error is not remembered.
//
// The context given to acquire has the values of the first caller's, but ends
// only with the flight. Token returns acquire's error as it is, ctx's error if
// ctx is done first, and ErrClosed after Close.
func (c *Cache) Token(ctx context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	entry, ok := c.memory.lookup(key)
	c.metrics.memory(ok)
	if ok {
		if !entry.shared && c.shared != nil {
			c.shareLate(key, entry.token)
		}
		return entry.token, nil
	}
	return c.join(ctx, key, acquire)
}

// join waits for the flight of a key, which it starts if there is none.
func (c *Cache) join(ctx context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	if err := ctx.Err(); err != nil {
		return Token{}, err
	}
	landed := c.flights.DoChan(key.digest(), func() (any, error) {
		return catchPanic(c.logger, func() (Token, error) { return c.fly(ctx, key, acquire) })
	})
	select {
	case result := <-landed:
		token, _ := result.Val.(Token)
		return token, result.Err
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

// fly gets a token from the shared store or acquires it.
func (c *Cache) fly(caller context.Context, key Key, acquire func(context.Context) (Token, error)) (Token, error) {
	if !c.begin() {
		return Token{}, ErrClosed
	}
	defer c.work.Done()
	ctx, cancel := c.detach(caller)
	defer cancel()

	// A flight may have landed between the caller's look and this flight.
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
	case err != nil && c.closing.Err() != nil:
		return Token{}, ErrClosed // and no context error, which would look like the caller's own
	case err != nil:
		return Token{}, err
	}
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
	// store: who asks from now on gets a flight that knows better.
	c.flights.Forget(key.digest())
	if c.shared == nil || !c.begin() {
		return
	}
	defer c.work.Done()
	ctx, cancel := c.detach(ctx)
	defer cancel()
	err := c.shared.delete(ctx, &budget{c.sharedTimeout}, key, rejected)
	c.metrics.sharedWrite(err)
}

// Close ends flights and waits until nothing that the cache started runs any
// more. Tokens in memory are still given out. A second Close does nothing. The
// shared store stays the caller's to close, after this. The error is always nil.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.close()
	c.mu.Unlock()
	c.work.Wait()
	if c.shared != nil {
		c.shared.wait()
	}
	return nil
}

// begin registers work that Close waits for, or returns false after Close.
func (c *Cache) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Err() != nil {
		return false
	}
	c.work.Add(1)
	return true
}

// detach returns a context with the values of a caller's, which Close ends and
// the caller does not.
func (c *Cache) detach(caller context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	stop := context.AfterFunc(c.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

func (c *Cache) readShared(ctx context.Context, allowed *budget, key Key) (Token, bool) {
	if c.shared == nil {
		return Token{}, false
	}
	token, err := c.shared.get(ctx, allowed, key)
	usable := err == nil && c.memory.adopt(key, token)
	c.metrics.sharedRead(usable, err)
	return token, usable
}

func (c *Cache) writeShared(ctx context.Context, allowed *budget, key Key, token Token) {
	if c.shared == nil || !c.memory.setShared(key, token, true) {
		return
	}
	c.write(ctx, allowed, key, token)
}

// shareLate writes a token that was acquired while the shared store was away,
// in the background: whoever uses the token does not wait for that.
func (c *Cache) shareLate(key Key, token Token) {
	if !c.shared.available() || !c.begin() {
		return
	}
	if !c.memory.setShared(key, token, true) {
		c.work.Done()
		return
	}
	go func() {
		defer c.work.Done()
		c.write(c.closing, &budget{c.sharedTimeout}, key, token)
	}()
}

// write gives the shared store a token that is already marked as shared, so
// that nobody else writes it too, and takes the mark back if that fails.
func (c *Cache) write(ctx context.Context, allowed *budget, key Key, token Token) {
	err := c.shared.set(ctx, allowed, key, token)
	if err != nil {
		c.memory.setShared(key, token, false)
	}
	c.metrics.sharedWrite(err)
}

// catchPanic calls f and makes a panic its error: in a goroutine of the cache
// nobody else would catch it, and every transfer of the process would end.
func catchPanic(logger *slog.Logger, f func() (Token, error)) (token Token, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			logger.Error("panic while getting a token", "cause", cause, "stack", string(debug.Stack()))
			token, err = Token{}, fmt.Errorf("tokencache: panic while getting a token: %v", cause)
		}
	}()
	return f()
}
