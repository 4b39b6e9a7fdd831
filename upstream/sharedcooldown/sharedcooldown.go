// Package sharedcooldown shares how long upstream registries want to be left alone
// after an answer of 429: what one client was told, the others need not be told
// again. It implements the Cooldowns of package upstream.
//
// [Cooldowns] tells the clients of this process at once, and those of other
// instances through Redis (redis.go), if there is one. Redis is asked and told
// by a goroutine of its own and never by a request: Limit and Subscribe only leave
// word for it. While Redis is away, a rest is known in this process only; when
// it is back, what is left of the rest is shared.
//
// A limit is one of an upstream and an account, so anonymous and authenticated
// clients of one registry do not rest together. In Redis both appear as a hash.
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
)

const defaultRetry = 5 * time.Second

// Options are what [New] needs.
type Options struct {
	Redis  redis.UniversalClient // nil: nothing leaves the process
	Prefix string                // of the names of keys and of the channel
	Logger *slog.Logger
	// Advice tells an operator what to check when Redis fails. It follows the
	// warning in the log.
	Advice string
	// Retry is the time between two looks at a Redis that fails or is silent;
	// 0: 5 s.
	Retry time.Duration
}

// Cooldowns shares rests. All methods may be called concurrently.
type Cooldowns struct {
	opts   Options
	cancel context.CancelFunc
	ended  sync.WaitGroup
	wake   chan struct{} // there is something to tell Redis or to ask it

	mu          sync.Mutex
	until       map[string]time.Time            // the rests that are known, by name
	subscribers map[string]map[*subscriber]bool // by name
	unpublished map[string]bool                 // names of rests that Redis does not know yet
	unqueried   map[string]bool                 // names that Redis was not asked about yet
}

type subscriber struct{ onLimit func(until time.Time) }

// New returns Cooldowns that share until their Close. It does not wait for Redis.
func New(opts Options) *Cooldowns {
	opts.Retry = cmp.Or(opts.Retry, defaultRetry)
	ctx, cancel := context.WithCancel(context.Background())
	r := &Cooldowns{
		opts: opts, cancel: cancel, wake: make(chan struct{}, 1),
		until: make(map[string]time.Time), subscribers: make(map[string]map[*subscriber]bool),
		unpublished: make(map[string]bool), unqueried: make(map[string]bool),
	}
	if opts.Redis != nil {
		r.ended.Go(func() { r.run(ctx) })
	}
	return r
}

// Close ends the sharing. The Redis client stays the caller's to close, after
// this.
func (r *Cooldowns) Close() {
	r.cancel()
	r.ended.Wait()
}

// Limit tells everyone who watches until when an upstream (host:port) rests for
// an account.
func (r *Cooldowns) Limit(upstream, account string, until time.Time) {
	name := nameOf(upstream, account)
	r.mu.Lock()
	r.unpublished[name] = true
	r.mu.Unlock()
	r.record(name, until)
	r.wakeUp()
}

// Subscribe lets onLimit be called, from any goroutine, whenever a rest of an
// upstream and an account becomes known, and at once for one that is.
func (r *Cooldowns) Subscribe(upstream, account string, onLimit func(until time.Time)) (stop func()) {
	name, w := nameOf(upstream, account), &subscriber{onLimit}
	r.mu.Lock()
	if r.subscribers[name] == nil {
		r.subscribers[name] = make(map[*subscriber]bool)
	}
	r.subscribers[name][w] = true
	r.unqueried[name] = true
	until := r.until[name]
	r.mu.Unlock()
	if until.After(time.Now()) {
		onLimit(until)
	}
	r.wakeUp()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subscribers[name], w)
		if len(r.subscribers[name]) == 0 {
			delete(r.subscribers, name)
		}
	}
}

// record remembers a rest and tells those who watch.
func (r *Cooldowns) record(name string, until time.Time) {
	now := time.Now()
	r.mu.Lock()
	maps.DeleteFunc(r.until, func(_ string, until time.Time) bool { return until.Before(now) })
	if until.After(r.until[name]) {
		r.until[name] = until
	}
	subscribers := maps.Clone(r.subscribers[name])
	r.mu.Unlock()
	for w := range subscribers {
		w.onLimit(until)
	}
}

// wakeUp makes the goroutine look for what is to be done.
func (r *Cooldowns) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default: // it is going to look
	}
}

// nameOf names what a rest is about without showing it. The account's length is
// always the same, or 0, so that no two names run together.
func nameOf(upstream, account string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "weir rest v1\n%s\n%s", upstream, account))
	return hex.EncodeToString(sum[:16])
}
