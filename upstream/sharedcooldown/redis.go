package sharedcooldown

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
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
	Sent    int64  `json:"sent_ms"`        // when Left was true, as Unix time
	Seal    string `json:"seal,omitempty"` // of the other fields
}

// maxMessage bounds a message before it is decoded. Messages have 200 bytes.
const maxMessage = 1 << 10

// maxSkew bounds the difference of two clocks. Only sealed messages are judged by the
// time at which they were sent.
const maxSkew = 30 * time.Second

// fields returns the fields that a seal is about. The channel is one of them, so that a
// message is valid for nothing but its own prefix.
func (m message) fields(channel string) []string {
	return []string{channel, strconv.Itoa(m.Version), m.Name, strconv.FormatInt(m.Left, 10), strconv.FormatInt(m.Sent, 10)}
}

// parse reads a message. It returns false for a message that cannot be read, is of
// another version or too late, or was not sealed by an instance with the same secret.
func (c *Cooldowns) parse(text string, now time.Time) (name string, until time.Time, ok bool) {
	var m message
	if len(text) > maxMessage || json.Unmarshal([]byte(text), &m) != nil || m.Version != version {
		return "", time.Time{}, false
	}
	left, ok := remaining(m.Left)
	if !ok {
		return "", time.Time{}, false
	}
	until = now.Add(left)
	if c.sealer != nil {
		if !c.sealer.Valid(m.Seal, m.fields(c.channel())...) {
			return "", time.Time{}, false
		}
		// An old message that is sent once more does not prolong its cooldown.
		if latest := time.UnixMilli(m.Sent).Add(left + maxSkew); latest.Before(until) {
			until = latest
		}
	}
	return m.Name, until, until.After(now)
}

func (c *Cooldowns) channel() string          { return c.opts.Prefix + ":cooldowns" }
func (c *Cooldowns) keyOf(name string) string { return c.opts.Prefix + ":cooldown:" + name }

// maxRemaining bounds the time that Redis is believed. A limit that lasts longer costs
// each instance one request in that time.
const maxRemaining = 15 * time.Minute

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
	// Redis may have restarted and lost them. Those of other instances are announced by these
	// only: a cooldown that came from Redis would never end otherwise.
	for name := range c.own {
		c.unpublished[name] = true
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
		// Any client of this Redis can publish a message.
		if name, until, ok := c.parse(text.Payload, time.Now()); ok {
			c.hear(name, until)
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
		published[name] = c.own[name]
	}
	c.mu.Unlock()
	_, err := c.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name, until := range published {
			left := time.Until(until)
			if left < time.Millisecond {
				continue // over: Redis counts in whole milliseconds
			}
			m := message{Version: version, Name: name, Left: left.Milliseconds(), Sent: time.Now().UnixMilli()}
			m.Seal = c.sealer.Seal(m.fields(c.channel())...)
			text, err := json.Marshal(m)
			if err != nil {
				return err
			}
			p.Eval(ctx, extend, []string{c.keyOf(name)}, left.Milliseconds(), text)
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
		if !c.own[name].After(until) {
			delete(c.unpublished, name)
		}
	}
	return nil
}

// query reads the cooldowns that were published before their names had a
// subscriber.
func (c *Cooldowns) query(ctx context.Context) error {
	type answer struct {
		left *redis.DurationCmd
		text *redis.StringCmd
	}
	answers := make(map[string]answer)
	c.mu.Lock()
	for name := range c.unqueried {
		answers[name] = answer{}
	}
	c.mu.Unlock()
	_, err := c.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name := range answers {
			answers[name] = answer{p.PTTL(ctx, c.keyOf(name)), p.GetRange(ctx, c.keyOf(name), 0, maxMessage)}
		}
		return nil
	})
	// A key of another type is garbage, and no failure of Redis.
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return err
	}
	for name, answer := range answers {
		if until, ok := c.stored(name, answer.left.Val(), answer.text.Val()); ok {
			c.record(name, until, false)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range answers {
		delete(c.unqueried, name)
	}
	return nil
}

// stored returns the end of the cooldown in a key.
func (c *Cooldowns) stored(name string, left time.Duration, text string) (until time.Time, ok bool) {
	now := time.Now()
	rest, ok := remaining(left.Milliseconds())
	if !ok {
		return time.Time{}, false // no such key, or one that never expires
	}
	until = now.Add(rest)
	if c.sealer == nil {
		return until, true // the value does not matter
	}
	named, sealed, ok := c.parse(text, now)
	if !ok || named != name {
		return time.Time{}, false
	}
	if sealed.Before(until) {
		until = sealed
	}
	return until, true
}
