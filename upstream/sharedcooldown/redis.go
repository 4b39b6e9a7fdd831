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
)

// callTimeout bounds one conversation with Redis, for which nobody waits.
const callTimeout = time.Second

// extend sets KEYS[1] for ARGV[1] milliseconds, unless it lives longer already:
// another instance may have been told of a longer rest.
const extend = `
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
end
return 0`

// message tells other instances of a rest. It says what is left of it, since
// clocks differ.
type message struct {
	Rest string `json:"rest"`
	Left int64  `json:"left_ms"`
}

func (r *Cooldowns) channel() string          { return r.opts.Prefix + ":rests" }
func (r *Cooldowns) keyOf(name string) string { return r.opts.Prefix + ":rest:" + name }

// run keeps a session with Redis, and begins another one after a pause when it
// failed.
func (r *Cooldowns) run(ctx context.Context) {
	breaker := cooldown.New(cooldown.Options{Pause: r.opts.Retry})
	for {
		breaker.Allow(time.Now()) // the pause is over
		err := r.session(ctx, func() {
			if breaker.Success() {
				r.opts.Logger.Info("rate limits of upstreams are shared through Redis again")
			}
		})
		if ctx.Err() != nil {
			return // Close, and no failure of Redis
		}
		if breaker.Closed() {
			r.opts.Logger.Warn(strings.TrimSpace("rate limits of upstreams are not shared until Redis is back. "+r.opts.Advice), "error", err, "retry_after", r.opts.Retry)
		}
		pause, _ := breaker.Failure(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// session shares rests until something fails or the context ends. It listens
// before it asks what is known, so that nothing falls between.
func (r *Cooldowns) session(ctx context.Context, works func()) error {
	ctx, cancel := context.WithCancel(ctx)
	subscription := r.opts.Redis.Subscribe(ctx)
	var listener sync.WaitGroup
	defer func() {
		cancel()
		subscription.Close()
		listener.Wait()
	}()
	if err := r.subscribe(ctx, subscription); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	r.mu.Lock()
	for name := range r.until { // Redis may have lost it
		r.unpublished[name] = true
	}
	for name := range r.subscribers {
		r.unqueried[name] = true
	}
	r.mu.Unlock()
	if err := r.exchange(ctx); err != nil {
		return err
	}
	works()

	failed := make(chan error, 1)
	listener.Go(func() { failed <- r.listen(ctx, subscription) })
	ping := time.NewTicker(r.opts.Retry)
	defer ping.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
		case <-r.wake:
			err = r.exchange(ctx)
		case <-ping.C: // its answer is something for the listener to hear
			err = subscription.Ping(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (r *Cooldowns) subscribe(ctx context.Context, subscription *redis.PubSub) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := subscription.Subscribe(ctx, r.channel()); err != nil {
		return err
	}
	_, err := subscription.ReceiveTimeout(ctx, callTimeout)
	return err
}

// listen learns what other instances tell, until the subscription fails, is
// silent or is closed.
func (r *Cooldowns) listen(ctx context.Context, subscription *redis.PubSub) error {
	for {
		received, err := subscription.ReceiveTimeout(ctx, r.opts.Retry+callTimeout)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		text, ok := received.(*redis.Message)
		if !ok {
			continue // a pong
		}
		var m message
		if json.Unmarshal([]byte(text.Payload), &m) == nil && m.Left > 0 {
			r.record(m.Rest, time.Now().Add(time.Duration(m.Left)*time.Millisecond))
		}
	}
}

// exchange tells Redis of the rests that it does not know, and asks for those
// that somebody began to watch. What fails stays to be done.
func (r *Cooldowns) exchange(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.publish(ctx); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := r.query(ctx); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	return nil
}

// publish writes each rest to a key that ends with it, for instances that start
// later, and to the channel, for those that run.
func (r *Cooldowns) publish(ctx context.Context) error {
	told := make(map[string]time.Time)
	r.mu.Lock()
	for name := range r.unpublished {
		told[name] = r.until[name]
	}
	r.mu.Unlock()
	_, err := r.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name, until := range told {
			left := time.Until(until)
			if left < time.Millisecond { // the finest that Redis knows
				continue
			}
			text, err := json.Marshal(message{name, left.Milliseconds()})
			if err != nil {
				return err
			}
			p.Eval(ctx, extend, []string{r.keyOf(name)}, left.Milliseconds(), until.UTC().Format(time.RFC3339))
			p.Publish(ctx, r.channel(), text)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, until := range told {
		if !r.until[name].After(until) {
			delete(r.unpublished, name)
		}
	}
	return nil
}

// query learns what was told before somebody listened.
func (r *Cooldowns) query(ctx context.Context) error {
	answers := make(map[string]*redis.DurationCmd)
	r.mu.Lock()
	for name := range r.unqueried {
		answers[name] = nil
	}
	r.mu.Unlock()
	_, err := r.opts.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name := range answers {
			answers[name] = p.PTTL(ctx, r.keyOf(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, answer := range answers {
		if left := answer.Val(); left > 0 { // and not: no such key
			r.record(name, time.Now().Add(left))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range answers {
		delete(r.unqueried, name)
	}
	return nil
}
