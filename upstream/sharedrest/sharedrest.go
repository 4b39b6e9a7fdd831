// Package sharedrest shares how long upstream registries want to be left alone
// after an answer of 429: what one client was told, the others need not be told
// again. It implements the Rests of package upstream.
//
// [Rests] tells the clients of this process at once, and those of other
// instances through Redis (redis.go), if there is one. Redis is asked and told
// by a goroutine of its own and never by a request: Limit and Watch only leave
// word for it. While Redis is away, a rest is known in this process only; when
// it is back, what is left of the rest is shared.
//
// A limit is one of an upstream and an account, so anonymous and authenticated
// clients of one registry do not rest together. In Redis both appear as a hash.
package sharedrest

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
	// Retry is the time between two looks at a Redis that fails or is silent;
	// 0: 5 s.
	Retry time.Duration
}

// Rests shares rests. All methods may be called concurrently.
type Rests struct {
	opts   Options
	cancel context.CancelFunc
	ended  sync.WaitGroup
	wake   chan struct{} // there is something to tell Redis or to ask it

	mu       sync.Mutex
	until    map[string]time.Time         // the rests that are known, by name
	watchers map[string]map[*watcher]bool // by name
	untold   map[string]bool              // names of rests that Redis does not know yet
	unasked  map[string]bool              // names that Redis was not asked about yet
}

type watcher struct{ limited func(until time.Time) }

// New returns Rests that share until their Close. It does not wait for Redis.
func New(opts Options) *Rests {
	opts.Retry = cmp.Or(opts.Retry, defaultRetry)
	ctx, cancel := context.WithCancel(context.Background())
	r := &Rests{
		opts: opts, cancel: cancel, wake: make(chan struct{}, 1),
		until: make(map[string]time.Time), watchers: make(map[string]map[*watcher]bool),
		untold: make(map[string]bool), unasked: make(map[string]bool),
	}
	if opts.Redis != nil {
		r.ended.Go(func() { r.run(ctx) })
	}
	return r
}

// Close ends the sharing. The Redis client stays the caller's to close, after
// this.
func (r *Rests) Close() {
	r.cancel()
	r.ended.Wait()
}

// Limit tells everyone who watches until when an upstream (host:port) rests for
// an account.
func (r *Rests) Limit(upstream, account string, until time.Time) {
	name := nameOf(upstream, account)
	r.mu.Lock()
	r.untold[name] = true
	r.mu.Unlock()
	r.learn(name, until)
	r.nudge()
}

// Watch lets limited be called, from any goroutine, whenever a rest of an
// upstream and an account becomes known, and at once for one that is.
func (r *Rests) Watch(upstream, account string, limited func(until time.Time)) (stop func()) {
	name, w := nameOf(upstream, account), &watcher{limited}
	r.mu.Lock()
	if r.watchers[name] == nil {
		r.watchers[name] = make(map[*watcher]bool)
	}
	r.watchers[name][w] = true
	r.unasked[name] = true
	until := r.until[name]
	r.mu.Unlock()
	if until.After(time.Now()) {
		limited(until)
	}
	r.nudge()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers[name], w)
		if len(r.watchers[name]) == 0 {
			delete(r.watchers, name)
		}
	}
}

// learn remembers a rest and tells those who watch.
func (r *Rests) learn(name string, until time.Time) {
	now := time.Now()
	r.mu.Lock()
	maps.DeleteFunc(r.until, func(_ string, until time.Time) bool { return until.Before(now) })
	if until.After(r.until[name]) {
		r.until[name] = until
	}
	watchers := maps.Clone(r.watchers[name])
	r.mu.Unlock()
	for w := range watchers {
		w.limited(until)
	}
}

// nudge makes the goroutine look for what is to be done.
func (r *Rests) nudge() {
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
