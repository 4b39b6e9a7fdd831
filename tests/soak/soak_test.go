package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
)

var (
	duration = flag.Duration("soak.duration", 20*time.Second, "how long the clients pull while things break")
	seed     = flag.Uint64("soak.seed", 0, "of the content, the clients and the faults; 0: a random one, which is printed")
)

const (
	// longSoak is from when on the mirror is the one that is shipped, and
	// troubles last longer than its patience with upstreams.
	longSoak = 2 * time.Minute
	// mostMemory is the limit of the mirror's memory, however long the soak: it
	// is about the same after a minute and after an hour.
	mostMemory = 256 * mib
	// raceFactor is by how much the race detector multiplies that at most.
	raceFactor = 4
	// goroutineSlack and fdSlack are by how much an idle mirror may hold more
	// at the end than at the start: the race detector's and the runtime's own,
	// and connections to Redis, of which it keeps up to ten for each core.
	goroutineSlack = 10
	fdSlack        = 24
	// mostUnready is for how many seconds in a row a mirror that answers may not
	// be ready.
	mostUnready = 15
	// lastLife is the part of the soak in which the mirror is not killed.
	lastLife = 4
)

// soak is the cast and the state of the soak.
type soak struct {
	t        *testing.T
	duration time.Duration
	seed     uint64
	race     bool
	started  time.Time

	content    *content
	images     []image // that clients pull
	tokens     *tokens
	registries []*registry
	proxies    []*proxy // before the registries
	redis      *redistest.Server
	mirror     *mirror
	mirrors    *balancer
	liars      []*atomic.Int64 // when a byte was last changed
	tries      int
	strict     bool
	redirects  bool           // some clients are redirected to the bucket
	working    func() []image // the images that clients pull at the moment; nil: all
	weather    *weather
	score      *score
	hangUps    []func() // at the other ends of a mirror's connections
	trouble    *troublemaker
	observer   *observer
	kills      atomic.Int64
}

// While everything around the mirror fails, no client ever gets wrong bytes or
// a 404 for content that exists, and nothing is left behind.
func TestSoak(t *testing.T) {
	testutil.Long(t, "the soak")
	s := newSoak(t)
	before := s.pass(s.content.images[:1])
	start, settled := s.settle(s.mirror, func(level) bool { return true })
	if !before || !settled {
		t.Fatal("the mirror does not work even while nothing is broken")
	}

	s.live()

	whole := s.pass(s.content.images)
	end, settled := s.settle(s.mirror, start.holds)
	fmt.Println(s.report(start, end))
	if !whole {
		t.Error("not all content can be pulled although nothing is broken any more")
	}
	if !settled {
		t.Errorf("the idle mirror holds %v, and held %v at the start", end, start)
	}
	s.expectBounds(s.mirror, s.observer)
	if s.observer.samples == 0 {
		t.Error("the mirror was not observed")
	}
	s.expectNoViolations()
}

// holds reports whether an idle mirror that had this level at the start has
// lost nothing meanwhile.
func (l level) holds(now level) bool {
	return now.goroutines <= l.goroutines+goroutineSlack && now.fds <= l.fds+fdSlack
}

// expectNoViolations fails the test for answers that no client may see.
func (s *soak) expectNoViolations() {
	s.t.Helper()
	_, _, violations, reasons := s.score.counts()
	for _, reason := range reasons {
		s.t.Log("with the mirror and an upstream well: ", reason)
	}
	for _, violation := range violations[:min(20, len(violations))] {
		s.t.Error(violation)
	}
}

// newSoak brings the cast together, with one mirror.
func newSoak(t *testing.T) *soak {
	s := newCast(t)
	s.mirror = newMirror(t, s.binary(), "weir", &mirror{redis: s.redis.URL(), first: s.proxies[0].URL(), second: s.proxies[1].URL(), patience: 3})
	s.mirrors = &balancer{[]*mirror{s.mirror}}
	s.mirror.start()
	s.observer = &observer{mirror: s.mirror}
	return s
}

// newCast returns the cast around the mirrors.
func newCast(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, duration: *duration, seed: *seed, race: *duration < longSoak, tries: tries, score: newScore(), weather: newWeather(2)}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("-soak.seed=%d", s.seed)
	if deadline, ok := t.Deadline(); ok && time.Until(deadline) < s.duration+5*patience {
		t.Fatalf("a soak of %s needs a test timeout of %s at least: set -timeout", s.duration, s.duration+5*patience+time.Second)
	}
	s.content = newContent(s.seed)
	s.images = s.content.images
	s.tokens = startTokens(t)
	root := t.TempDir()
	s.registries = []*registry{startRegistry(t, "open", root, ""), startRegistry(t, "guarded", root, s.tokens.auth())}
	s.registries[0].push(t, s.content)
	for _, registry := range s.registries {
		proxy := startProxy(t, registry.addr)
		s.proxies, s.liars, s.hangUps = append(s.proxies, proxy), append(s.liars, &proxy.lastLie), append(s.hangUps, proxy.hangUp)
	}
	s.redis = redistest.Start(t)
	s.trouble = &troublemaker{t: t, soak: s, longest: 5 * time.Second, made: make(map[string]int)}
	if s.race {
		s.trouble.longest = 1500 * time.Millisecond
	}
	return s
}

// binary returns the mirror to run. The race detector makes it too slow for a
// long soak.
func (s *soak) binary() string {
	if s.race {
		return harness.Binary(s.t)
	}
	return harness.BuildShipped(s.t)
}

// live lets everyone work for the soak's duration.
func (s *soak) live() {
	s.started = time.Now()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.duration)
	defer cancel()
	kills, cancelKills := context.WithTimeout(ctx, s.duration-s.duration/lastLife)
	defer cancelKills()
	var all sync.WaitGroup
	for number := range clients {
		all.Go(func() { s.newClient(number).run(ctx) })
	}
	for range slowClients {
		all.Go(func() { s.dawdle(ctx) })
	}
	all.Go(func() {
		s.trouble.run(ctx, lane{"upstream 1", s.trouble.upstream(0)}, lane{"upstream 2", s.trouble.upstream(1)}, lane{"the rest", s.trouble.rest(kills)})
	})
	all.Go(func() { s.observer.run(ctx) })
	all.Wait()
	s.mirror.configure(s.mirror.configuration(variant{}))
}

// pass pulls images through each block, and reports whether all of them came.
// It is patient with a mirror that lets an upstream rest which has failed.
func (s *soak) pass(images []image) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	defer cancel()
	whole := true
	for number := range 2 { // one for each block
		c := s.newClient(number)
		for _, image := range images {
			done := false
			for !done && ctx.Err() == nil {
				done = c.docker(ctx, image)
			}
			whole = whole && done
		}
		c.http.CloseIdleConnections()
	}
	return whole
}

// expectBounds fails the test where the mirror was too large, raced or
// panicked, or left something behind.
func (s *soak) expectBounds(m *mirror, o *observer) {
	s.t.Helper()
	most := float64(mostMemory)
	if s.race {
		most *= raceFactor
	}
	if o.rss > most {
		s.t.Errorf("the mirror had %s of resident memory, want at most %s (%d samples)", bytesOf(int64(o.rss)), bytesOf(int64(most)), o.samples)
	}
	if got := max(o.stored, m.stored("blobs")); got > maxSize {
		s.t.Errorf("%s were stored, and the cap is %s", bytesOf(got), bytesOf(maxSize))
	}
	if o.longest > mostUnready {
		s.t.Errorf("the mirror answered and was not ready for %d s", o.longest)
	}
	if got := m.stored("tmp"); got > 0 {
		s.t.Errorf("%s of downloads are left behind", bytesOf(got))
	}
	log := m.Log()
	for _, bad := range []string{"DATA RACE", "panic", "fatal error"} {
		if at := strings.Index(log, bad); at >= 0 {
			s.t.Errorf("the mirror's log: %.4000s", log[at:])
		}
	}
}
