package tokencache

import (
	"log/slog"
	"time"
)

const (
	// defaultSharedTimeout bounds the time that one call of Token (reading and
	// writing together) or of Invalidate may lose to the shared store. A client
	// does not notice this much in a pull.
	defaultSharedTimeout = 250 * time.Millisecond
	// defaultSharedPause is how long no call to the shared store is made after a
	// failure: about the time of a Redis failover.
	defaultSharedPause = 5 * time.Second
	// defaultAcquireTimeout bounds a flight, which no caller's context ends. Slow
	// token services take seconds.
	defaultAcquireTimeout = time.Minute
)

// Option changes how a [Cache] works.
type Option func(*Cache)

// WithLogger sets the logger. The default is slog's.
func WithLogger(logger *slog.Logger) Option {
	return func(c *Cache) { c.logger = logger }
}

// WithMetrics counts the answers of memory and of the shared store.
func WithMetrics(metrics *Metrics) Option {
	return func(c *Cache) { c.metrics = metrics }
}

// WithAdvice adds a sentence with the remedy for an error to the warning that the
// shared store fails. The default is none.
func WithAdvice(advice func(error) string) Option {
	return func(c *Cache) { c.advice = advice }
}
