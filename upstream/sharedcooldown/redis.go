package sharedcooldown

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/cooldown"
	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/rediscluster"
)

// callTimeout bounds one exchange with Redis. No request waits for it, so it is
// long enough for a slow Redis.
const callTimeout = time.Second

// extend sets KEYS[1] for ARGV[1] milliseconds, unless the key lives longer
// already: the upstream may have set another instance a longer limit.
const extend = `
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
end
return 0`

// version is that of the form of keys and messages. An instance ignores those of
// another version: it learns a limit by itself then, with one request. Version 1 had one
// cooldown for all operations of an upstream.
const version = 2

// message publishes a cooldown to other instances. It holds the remaining time
// and not the end, since clocks differ.
type message struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Left    int64  `json:"left_ms"`
}

func (c *Cooldowns) channel() string          { return c.opts.Prefix + ":cooldowns" }
func (c *Cooldowns) keyOf(name string) string { return c.opts.Prefix + ":cooldown:" + name }

// maxRemaining bounds the time that Redis is believed. No limit lasts longer than some
// minutes.
const maxRemaining = time.Hour

// remaining reads the rest of a cooldown. It returns false if there is none.
func remaining(milliseconds int64) (time.Duration, bool) {
	if milliseconds <= 0 {
		return 0, false
	}
	return time.Duration(min(milliseconds, maxRemaining.Milliseconds())) * time.Millisecond, true
}

// run keeps a session with Redis, and begins another one after a pause if it
// fails.
func (c *Cooldowns) run(ctx context.Context) {
	breaker := cooldown.New(cooldown.Options{Pause: c.opts.Retry})
	// A session that ends at once does not make Redis available.
	away := episode.New(2*c.opts.Retry, func() { c.opts.Logger.Info("rate limits of upstreams are shared through Redis again") })
	for {
		// The pause is over, so the session is allowed; after a failure it is the
		// breaker's probe.
		breaker.Allow(time.Now())
		err := c.session(ctx, func() {
			breaker.Success()
			away.Good()
		})
		if ctx.Err() != nil {
			return // Close, and no failure of Redis
		}
		if away.Bad() { // the first failure: the others say nothing new
			c.opts.Logger.Warn(strings.TrimSpace("rate limits of upstreams are not shared until Redis is back. "+c.opts.Advice(err)), "error", err, "retry_after", c.opts.Retry)
		}
		pause, _ := breaker.Failure(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// session shares cooldowns until a call to Redis fails or the context ends. It
// subscribes before it reads the known cooldowns, so that it misses none between
// the two.
func (c *Cooldowns) session(ctx context.Context, works func()) error {
	ctx, cancel := context.WithCancel(ctx)
	subscription := c.opts.Redis.Subscribe(ctx)
	var listener sync.WaitGroup
	defer func() {
		cancel()
		subscription.Close()
		listener.Wait()
	}()
	if err := c.ready(ctx); err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if err := c.subscribe(ctx, subscription); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	c.mu.Lock()
	for name := range c.until {
		c.unpublished[name] = true // Redis may have restarted and lost it
	}
	for name := range c.subscribers {
		c.unqueried[name] = true // other instances may have published it meanwhile
	}
	c.mu.Unlock()
	if err := c.exchange(ctx); err != nil {
		return err
	}
	works()

	failed := make(chan error, 1)
	listener.Go(func() { failed <- c.listen(ctx, subscription) })
	ping := time.NewTicker(c.opts.Retry)
	defer ping.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
		case <-c.work.C():
			err = c.exchange(ctx)
		case <-ping.C:
			// The listener fails if it receives nothing for a while, so a working
			// but silent Redis has to answer.
			err = subscription.Ping(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// ready returns an error unless all masters of a cluster work. The names of cooldowns
// are spread over them.
func (c *Cooldowns) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return rediscluster.Ready(ctx, c.opts.Redis)
}

func (c *Cooldowns) subscribe(ctx context.Context, subscription *redis.PubSub) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := subscription.Subscribe(ctx, c.channel()); err != nil {
		return err
	}
	_, err := subscription.ReceiveTimeout(ctx, callTimeout)
	return err
}

// listen records the cooldowns that other instances publish, until the
// subscription fails, is silent or is closed.
func (c *Cooldowns) listen(ctx context.Context, subscription *redis.PubSub) error {
	for {
		received, err := subscription.ReceiveTimeout(ctx, c.opts.Retry+callTimeout)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		text, ok := received.(*redis.Message)
		if !ok {
			continue // a pong
		}
		// A message that cannot be read is ignored, since any client of this Redis
		// can publish one.
		var m message
		if json.Unmarshal([]byte(text.Payload), &m) == nil && m.Version == version {
			if left, ok := remaining(m.Left); ok {
				c.hear(m.Name, time.Now().Add(left))
			}
		}
	}
}

// exchange publishes the cooldowns that Redis does not know, and reads those of
// new subscribers. After a failure the next session does the remaining work.
func (c *Cooldowns) exchange(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.publish(ctx); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := c.query(ctx); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	return nil
}

// publish writes each cooldown to a key that expires with it, for instances that
// start later, and to the channel, for those that run.
func (c *Cooldowns) publish(ctx context.Context) error {
	published := make(map[string]time.Time)
	c.mu.Lock()
	for name := range c.unpublished {
		published[name] = c.until[name]
	}
	c.mu.Unlock()
	_, err := c.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name, until := range published {
			left := time.Until(until)
			if left < time.Millisecond {
				continue // over: Redis counts in whole milliseconds
			}
			text, err := json.Marshal(message{version, name, left.Milliseconds()})
			if err != nil {
				return err
			}
			p.Eval(ctx, extend, []string{c.keyOf(name)}, left.Milliseconds(), until.UTC().Format(time.RFC3339))
			p.Publish(ctx, c.channel(), text)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, until := range published {
		// A limit that was extended meanwhile stays to be published.
		if !c.until[name].After(until) {
			delete(c.unpublished, name)
		}
	}
	return nil
}

// query reads the cooldowns that were published before their names had a
// subscriber.
func (c *Cooldowns) query(ctx context.Context) error {
	answers := make(map[string]*redis.DurationCmd)
	c.mu.Lock()
	for name := range c.unqueried {
		answers[name] = nil
	}
	c.mu.Unlock()
	_, err := c.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name := range answers {
			answers[name] = p.PTTL(ctx, c.keyOf(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, answer := range answers {
		if left, ok := remaining(answer.Val().Milliseconds()); ok { // else no such key, or one that never expires
			c.record(name, time.Now().Add(left), false)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range answers {
		delete(c.unqueried, name)
	}
	return nil
}
