package tokencache

import (
	"log/slog"
	"time"
)

// What a cache does unless an [Option] says otherwise.
const (
	defaultSharedTimeout  = 250 * time.Millisecond
	defaultSharedPause    = 5 * time.Second
	defaultAcquireTimeout = time.Minute
)

// Option changes how a [Cache] works.
type Option func(*Cache)

// WithLogger sends the cache's few log lines elsewhere than to slog's default.
func WithLogger(logger *slog.Logger) Option {
	return func(c *Cache) { c.logger = logger }
}

// WithMetrics counts what the layers answer.
func WithMetrics(metrics *Metrics) Option {
	return func(c *Cache) { c.metrics = metrics }
}

// WithSharedTimeout bounds the time that one call of Token, reading and writing
// together, or of Invalidate may spend on the shared store. The default is
// 250 ms.
func WithSharedTimeout(timeout time.Duration) Option {
	return func(c *Cache) { c.sharedTimeout = timeout }
}

// WithSharedPause sets how long the shared store is not asked after a failure.
// The default is 5 s.
func WithSharedPause(pause time.Duration) Option {
	return func(c *Cache) { c.sharedPause = pause }
}

// WithAcquireTimeout bounds how long one flight may take to acquire a token,
// since no caller's context ends it. The default is 1 min.
func WithAcquireTimeout(timeout time.Duration) Option {
	return func(c *Cache) { c.acquireTimeout = timeout }
}
