package tokencache

import "time"

// WithSharedTimeout replaces defaultSharedTimeout.
func WithSharedTimeout(timeout time.Duration) Option {
	return func(c *Cache) { c.sharedTimeout = timeout }
}

// WithSharedPause replaces defaultSharedPause.
func WithSharedPause(pause time.Duration) Option {
	return func(c *Cache) { c.sharedPause = pause }
}

// WithAcquireTimeout replaces defaultAcquireTimeout.
func WithAcquireTimeout(timeout time.Duration) Option {
	return func(c *Cache) { c.acquireTimeout = timeout }
}
