package soak

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// trouble is one kind of fault: how it begins, and how it ends. A trouble that
// is over at once has no end.
type trouble struct {
	name  string
	begin func()
	end   func()
	over  func() bool // whether it is not made any more; nil: never
}

// troublemaker breaks and mends everything around the mirror, and the mirror.
// Each upstream has its own sequence of troubles, and so have the rest
// together, so that they overlap in all ways. The soak's duration is all that
// bounds the sequences, and how long a trouble lasts, and the calm after it, is
// drawn from the seed: that these are real times is the nature of a soak.
type troublemaker struct {
	t       *testing.T
	soak    *soak
	longest time.Duration // of a trouble, and of the calm after it

	mu   sync.Mutex
	made map[string]int // troubles by name
}

// lane has troubles that come one after the other.
type lane struct {
	name string
	deck []trouble
}

// run makes trouble in all lanes until the context ends, and mends everything.
func (m *troublemaker) run(ctx context.Context, lanes ...lane) {
	var all sync.WaitGroup
	for _, l := range lanes {
		all.Go(func() { m.lane(ctx, l.name, l.deck) })
	}
	all.Wait()
}

// lane plays the troubles of a deck one after the other, and shuffles it each
// time, so that even a short soak has seen them all.
func (m *troublemaker) lane(ctx context.Context, name string, deck []trouble) {
	random := rand.New(rand.NewChaCha8(seedOf(m.soak.seed, name)))
	upTo := func() time.Duration { return m.longest/20 + time.Duration(random.Int64N(int64(m.longest))) }
	for ctx.Err() == nil {
		random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, trouble := range deck {
			if trouble.over != nil && trouble.over() {
				continue
			}
			pause(ctx, upTo())
			if ctx.Err() != nil {
				return
			}
			m.note(name, trouble.name)
			trouble.begin()
			if trouble.end != nil {
				pause(ctx, upTo())
				trouble.end()
				m.log(name, trouble.name+" is over")
			}
		}
	}
}

func (m *troublemaker) note(lane, name string) {
	m.mu.Lock()
	m.made[name]++
	m.mu.Unlock()
	m.log(lane, name)
}

func (m *troublemaker) log(lane, label string) {
	m.t.Logf("%7.2fs %s: %s", time.Since(m.soak.started).Seconds(), lane, label)
}

// upstream returns the troubles of an upstream. All but the slow network are
// failures.
func (m *troublemaker) upstream(i int) []trouble {
	proxy, registry, weather := m.soak.proxies[i], m.soak.registries[i], m.soak.weather
	var mended func()
	fails := func(name string, begin, end func()) trouble {
		return trouble{name: name, begin: func() { mended = weather.upstreamFails(i); begin() }, end: func() { end(); mended() }}
	}
	under := func(name string, c conditions) trouble {
		return fails(name, func() { proxy.set(c) }, func() { proxy.set(conditions{}) })
	}
	return []trouble{
		fails("upstream stopped", func() { proxy.stop(); registry.Kill() }, func() { registry.Start(); proxy.start() }),
		fails("upstream registry killed behind its proxy", registry.Kill, func() { registry.Start() }),
		under("upstream stalls", conditions{stalled: true}),
		under("upstream connections reset", conditions{cutAfter: mib}),
		under("upstream corrupts a byte of each body", conditions{corrupt: true}),
		under("upstream corrupts and resets", conditions{corrupt: true, cutAfter: 3 * mib}),
		m.throttled(i),
	}
}

// throttled is the slow network of an upstream.
func (m *troublemaker) throttled(i int) trouble {
	proxy := m.soak.proxies[i]
	return trouble{
		name:  "upstream throttled",
		begin: func() { proxy.set(conditions{pace: 20 * time.Millisecond}) },
		end:   func() { proxy.set(conditions{}) },
	}
}

// rest returns the troubles of Redis, the configuration and the mirror. The
// mirror is killed as long as kills lasts, so that the last process lives long
// enough to show a leak.
func (m *troublemaker) rest(kills context.Context) []trouble {
	mirror := m.soak.mirror
	rewrite := func(name string, v variant) trouble {
		return trouble{name: "configuration rewritten: " + name, begin: func() { mirror.configure(mirror.configuration(v)) }}
	}
	kill := trouble{name: "mirror killed", begin: m.kill, over: func() bool { return kills.Err() != nil }}
	return []trouble{
		kill, kill,
		{name: "Redis killed", begin: m.soak.redis.Stop, end: m.soak.redis.Restart},
		{name: "Redis frozen", begin: m.soak.redis.Pause, end: m.soak.redis.Resume},
		{
			name:  "configuration rewritten: unusable",
			begin: func() { mirror.configure("[repository.\"one\"\nupstream = ") },
			end:   func() { mirror.configure(mirror.configuration(variant{})) },
		},
		rewrite("upstreams swapped", variant{swapped: true}),
		rewrite("tag_ttl", variant{tagTTL: "2s", spare: true}),
		rewrite("immutable tags", variant{immutable: true}),
		rewrite("back to the original", variant{}),
	}
}

// kill ends the mirror with SIGKILL and starts it again on the same data.
func (m *troublemaker) kill() {
	mirror := m.soak.mirror
	mended := m.soak.weather.mirrorFails()
	defer mended()
	mirror.kill()
	m.soak.kills.Add(1)
	mirror.start()
}
