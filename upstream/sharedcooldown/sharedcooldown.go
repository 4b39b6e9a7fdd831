// Package sharedcooldown shares cooldowns after an answer of 429: if an upstream
// limits an operation of one client, the other clients of the same account send no
// request of that operation either until the limit ends. It implements the Cooldowns of
// package upstream.
//
// [Cooldowns] informs the clients of this process at once, and those of other
// instances through Redis (redis.go), if there is one. Only a goroutine of
// Cooldowns talks to Redis, never a request: Limit and Subscribe leave work for
// that goroutine. While Redis is unavailable, a cooldown is known in this process only;
// once Redis is back, the remaining time of the cooldown is shared.
//
// A limit belongs to an upstream, an account and an operation, so anonymous and
// authenticated clients of one registry cool down separately. The operation "token" names
// its token service too. Redis holds a hash of all of them.
package sharedcooldown

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/internal/seal"
)

// defaultRetry is short against the usual limit of a minute, and long enough for
// a Redis that is down to cost nothing.
const defaultRetry = 5 * time.Second

// Options configure [New].
type Options struct {
	Redis  redis.UniversalClient // nil: cooldowns are shared within the process
	Prefix string                // of the names of keys and of the channel
	// Secret is common to all instances that share. With it, cooldowns that others
	// wrote to Redis are ignored; empty: none.
	Secret string
	Logger *slog.Logger
	// Advice returns the remedy for a failure of Redis, which follows the warning in
	// the log; nil: none.
	Advice func(error) string
	// Retry is the pause after a failure of Redis, and the time between two
	// pings of a silent Redis; 0: 5 s.
	Retry time.Duration
}

// Cooldowns shares cooldowns. All methods may be called concurrently.
type Cooldowns struct {
	opts   Options
	sealer *seal.Sealer
	cancel context.CancelFunc
	ended  sync.WaitGroup
	work   notify.Signal // there is an entry in unpublished or unqueried

	mu          sync.Mutex
	until       map[string]time.Time            // the end of each known cooldown, by name
	own         map[string]time.Time            // the end of those that a client of this process caused, by name
	subscribers map[string]map[*subscriber]bool // by name
	unpublished map[string]bool                 // names of cooldowns that Redis does not know yet
	unqueried   map[string]bool                 // names that Redis was not asked about yet
}

// subscriber is a pointer in the maps, because functions cannot be compared.
type subscriber struct{ onLimit func(until time.Time) }

// New returns Cooldowns that share until their Close. It does not wait for Redis.
func New(opts Options) *Cooldowns {
	opts.Retry = cmp.Or(opts.Retry, defaultRetry)
	if opts.Advice == nil {
		opts.Advice = func(error) string { return "" }
	}
	c := &Cooldowns{
		opts: opts, work: notify.NewSignal(),
		until: make(map[string]time.Time), own: make(map[string]time.Time), subscribers: make(map[string]map[*subscriber]bool),
		unpublished: make(map[string]bool), unqueried: make(map[string]bool),
	}
	c.start()
	return c
}

func (c *Cooldowns) start() {
	c.sealer = seal.New(c.opts.Secret, "weir cooldown v1")
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	if c.opts.Redis != nil {
		c.ended.Go(func() { c.run(ctx) })
	}
}

// Use shares through another Redis from now on, or within the process alone if the
// client is nil. The secret is that of [Options]. It returns when the earlier client is no longer in use. Calls of Use
// and Close must not overlap.
func (c *Cooldowns) Use(client redis.UniversalClient, prefix, secret string) {
	c.Close()
	// They are read by run only, which has ended.
	c.opts.Redis, c.opts.Prefix, c.opts.Secret = client, prefix, secret
	c.start()
}

// Close ends the sharing. The caller closes the Redis client after this.
func (c *Cooldowns) Close() {
	c.cancel()
	c.ended.Wait()
}

// Limit informs all subscribers that an upstream (host:port) limits an operation of an
// account until the given time.
func (c *Cooldowns) Limit(upstream, account, operation string, until time.Time) {
	c.record(nameOf(upstream, account, operation), until, true)
	c.work.Notify()
}

// Subscribe calls onLimit for the current limit of an upstream, an account and an
// operation, if any, and for each new one, from any goroutine and possibly more than
// once. A call that is under way may still end after stop has returned.
func (c *Cooldowns) Subscribe(upstream, account, operation string, onLimit func(until time.Time)) (stop func()) {
	name, s := nameOf(upstream, account, operation), &subscriber{onLimit}
	c.mu.Lock()
	if c.subscribers[name] == nil {
		c.subscribers[name] = make(map[*subscriber]bool)
	}
	// From here on record informs the subscriber, so no limit is lost between
	// the look at until and its call.
	c.subscribers[name][s] = true
	c.unqueried[name] = true
	until := c.until[name]
	c.mu.Unlock()
	if until.After(time.Now()) {
		onLimit(until)
	}
	c.work.Notify()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers[name], s)
		if len(c.subscribers[name]) == 0 {
			delete(c.subscribers, name)
			delete(c.unqueried, name) // without Redis it would stay
		}
	}
}

// hear records a cooldown that another instance announced. Names without a subscriber are
// not remembered, since any client of Redis can invent them; a later subscriber asks
// Redis by itself.
func (c *Cooldowns) hear(name string, until time.Time) {
	c.mu.Lock()
	known := len(c.subscribers[name]) > 0
	c.mu.Unlock()
	if known {
		c.record(name, until, false)
	}
}

// record remembers the end of a cooldown and informs its subscribers. A cooldown that a
// client of this process caused is published later.
func (c *Cooldowns) record(name string, until time.Time, own bool) {
	now := time.Now()
	c.mu.Lock()
	// Cooldowns that are over go here, since no timer removes them.
	over := func(_ string, until time.Time) bool { return until.Before(now) }
	maps.DeleteFunc(c.until, over)
	maps.DeleteFunc(c.own, over)
	maps.DeleteFunc(c.unpublished, func(name string, _ bool) bool { return c.own[name].IsZero() })
	if until.After(c.until[name]) {
		c.until[name] = until
	}
	if own {
		// Under one lock: publish takes a name without a cooldown for one that is
		// over, and drops it.
		if until.After(c.own[name]) {
			c.own[name] = until
		}
		c.unpublished[name] = true
	}
	subscribers := maps.Clone(c.subscribers[name])
	c.mu.Unlock()
	for s := range subscribers {
		s.onLimit(until) // under no lock: it may call Limit or stop
	}
}

// nameOf hashes an upstream, an account and an operation, so that Redis shows none of
// them. They are quoted, so two names never collide.
func nameOf(upstream, account, operation string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "weir cooldown v%d\n%q\n%q\n%q", version, upstream, account, operation))
	return hex.EncodeToString(sum[:16])
}
