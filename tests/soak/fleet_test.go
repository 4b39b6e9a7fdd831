package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

const (
	// mostReplicas is up to how many replicas the fleet grows. It begins with
	// usualReplicas.
	mostReplicas  = 5
	usualReplicas = 3
	// fleetClients pull through all replicas.
	fleetClients = 48
	// fleetPatience is that of replicas with an upstream, in seconds. The good upstream is never
	// the reason for a failure, even on a machine that gets to it late; a bad one
	// stalls for less.
	fleetPatience = 20
	// fleetTries is the number of tries of each request. A client that meets one
	// fault after the other goes on.
	fleetTries = 12
	// provenWhole is up to which size a blob from elsewhere is fetched as a proof.
	provenWhole = 64 * kib
	// bucketSize is the limit of the bucket: one repository has some 20 MiB, and clients pull one at
	// a time, for that many parts of a long soak. The one before leaves then. That takes a minute and a
	// half, since the URLs of redirects are good for a minute.
	bucketSize = 32 * mib
	turns      = 5
	// fleetPart is the part of the time of the soak of one mirror that this one
	// takes if it is short.
	fleetPart = 2
)

// fleet is the cast of the soak of replicas.
type fleet struct {
	*soak
	bucket   *bucket
	replicas []*replica
	evictor  *evictor
	late     []image // that no client pulls before the end
	cold     int     // the most downloads of one of their blobs
}

// replica is one mirror of the fleet. Others reach it through a proxy.
type replica struct {
	*mirror
	peers      *proxy
	observer   *observer
	start, end level
}

// While replicas, their Redis, their bucket and the network between them fail,
// and one upstream is well, each pull comes to its end with the right bytes,
// and nothing is left behind.
func TestFleetSoak(t *testing.T) {
	testutil.Long(t, "the soak of replicas")
	f := newFleet(t)
	for _, r := range f.replicas {
		r.mirror.start()
	}
	f.evictor.begin()
	samples := 0
	for n, r := range f.replicas {
		whole, settled := f.passThrough(r, f.images[:1]), false
		if r.start, settled = f.settle(r.mirror, func(level) bool { return true }); !whole || !settled {
			t.Fatal("a replica does not work even while nothing is broken")
		}
		if n >= usualReplicas {
			r.leave()
		}
	}

	f.live()

	whole, last := true, f.images
	if f.race {
		last = f.images[:imagesOfEach+1] // those of one repository
	}
	for _, r := range f.replicas {
		if !r.isUp() {
			r.mirror.start()
		}
		whole = f.passThrough(r, last) && whole
	}
	f.pullCold()
	settled := true
	for _, r := range f.replicas {
		now, comes := f.settle(r.mirror, r.start.holds)
		r.end, settled = now, settled && comes
	}
	evicts := f.evictor.end()
	fmt.Println(f.report())
	if !evicts {
		t.Error("the bucket is larger than its limit although nothing is broken any more")
	}
	if !whole {
		t.Error("not all content can be pulled although nothing is broken any more")
	}
	if !settled {
		t.Error("an idle replica holds more than at the start")
	}
	for _, r := range f.replicas {
		f.expectBounds(r.mirror, r.observer)
		samples += r.observer.samples
	}
	if samples == 0 {
		t.Error("no replica was observed")
	}
	f.expectNothingLeft()
	f.expectNoViolations()
}

// newFleet brings the cast together, with all replicas that there will be.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	s := newCast(t)
	if s.race {
		s.duration /= fleetPart
	}
	f := &fleet{soak: s, bucket: startBucket(t, s.content, s.score.violated)}
	s.strict, s.redirects, s.tries, s.mirrors = true, true, fleetTries, &balancer{}
	s.liars, s.hangUps = append(s.liars, &f.bucket.lastLie), append(s.hangUps, f.bucket.front.CloseClientConnections)
	last := s.images[len(s.images)-1].repo
	isLate := func(i image) bool { return i.repo == last }
	f.late = slices.DeleteFunc(slices.Clone(s.images), func(i image) bool { return !isLate(i) })
	s.images = slices.DeleteFunc(slices.Clone(s.images), isLate)
	binary := s.binary()
	for n := range mostReplicas {
		listens := testutil.FreeAddr(t)
		_, port, err := net.SplitHostPort(listens)
		harness.Must(t, err)
		r := &replica{peers: startProxy(t, listens)}
		s.liars, s.hangUps = append(s.liars, &r.peers.lastLie), append(s.hangUps, r.peers.hangUp)
		r.mirror = newMirror(t, binary, fmt.Sprint("replica", n), &mirror{
			redis: s.redis.URL(), first: s.proxies[0].URL(), second: s.proxies[1].URL(), crosses: true, patience: fleetPatience,
			more: f.bucketConfig() +
				fmt.Sprintf("[cluster]\nsecret = \"the secret of all replicas of the soak\"\nlease_secs = 2\npeer_port = %s\nadvertise = %q\n", port, r.peers.URL()),
		})
		r.observer = &observer{mirror: r.mirror}
		f.replicas = append(f.replicas, r)
		s.mirrors.mirrors = append(s.mirrors.mirrors, r.mirror)
	}
	f.evictor = newEvictor(f, binary)
	return f
}

// bucketConfig is the table of the bucket with some further settings, one line each.
func (f *fleet) bucketConfig(settings ...string) string {
	return f.bucket.UserConfig(strings.Join(append(settings,
		`records_ttl = "1s"`, `eviction_interval = "5s"`, "presign_ttl_secs = 60", fmt.Sprintf("redirect_clients = [%q]", redirectedClient),
	), "\n"))
}

// leave ends a replica as a supervisor does: it gets no further requests, and
// ends those that it has.
func (r *replica) leave() {
	r.vanish()
	r.Terminate()
}

// live lets everyone work for the soak's duration. One upstream is only slow at
// times, so that there is no excuse for a pull that does not come.
func (f *fleet) live() {
	f.started = time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), f.duration)
	defer cancel()
	var all sync.WaitGroup
	for number := range fleetClients {
		all.Go(func() { f.newClient(number).run(ctx) })
	}
	m := f.trouble
	all.Go(func() {
		m.run(ctx,
			lane{"upstream 1", []trouble{m.throttled(0)}}, lane{"upstream 2", m.upstream(1)},
			lane{"Redis", m.redis()}, lane{"bucket", m.bucket(f)},
			lane{"replicas", m.replicas(f)}, lane{"network", m.network(f)})
	})
	for _, r := range f.replicas {
		all.Go(func() { r.observer.run(ctx) })
	}
	f.evictor.observe(ctx, &all)
	all.Wait()
}

// passThrough pulls images through one replica.
func (f *fleet) passThrough(r *replica, images []image) bool {
	usual := f.mirrors
	defer func() { f.mirrors = usual }()
	f.mirrors = &balancer{[]*mirror{r.mirror}}
	return f.pass(images)
}

// pullCold pulls images that no replica has yet through all of them at once,
// and notes how often their blobs were downloaded. At most each replica does
// so: those whose last trouble was a moment ago may still work alone.
func (f *fleet) pullCold() {
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*patience)
	defer cancel()
	var all sync.WaitGroup
	for number := range 2 * len(f.replicas) {
		all.Go(func() {
			c := f.newClient(2 * number) // of one block
			defer c.http.CloseIdleConnections()
			for _, image := range f.late {
				if !c.podman(ctx, image) {
					c.violation("cold: %s:%s does not come", image.repo, image.tag)
				}
			}
		})
	}
	all.Wait()
	repo := f.late[0].repo
	for _, dgst := range f.content.blobs[repo] {
		number := 0
		for _, p := range f.proxies {
			number += p.asked(blob(repo, dgst).upstreamPath())
		}
		// Content that has no room is not kept, and is downloaded again.
		kept := !slices.ContainsFunc(f.replicas, func(r *replica) bool {
			return r.logged(`"cannot store content as an upstream sent it. Clients still get it","digest":"`+dgst.String()) > 0
		})
		// A small blob is fetched whole by each replica that proves its right to it.
		if len(f.content.bodies[dgst]) > provenWhole {
			f.cold = max(f.cold, number)
		}
		// A short soak may run on a machine that is too busy for replicas to meet.
		if number > len(f.replicas) && kept && !f.race {
			f.t.Errorf("%d replicas downloaded %s %d times", len(f.replicas), dgst, number)
		}
	}
}

// expectNothingLeft fails the test for wrong content in the bucket and for
// leases of replicas that download nothing.
func (f *fleet) expectNothingLeft() {
	wrong, planted, _ := f.bucket.wrong()
	// No mirror has read these since. A short soak has no time for a command that reads all.
	if planted > 0 && !f.race {
		f.verify()
		if _, planted, _ = f.bucket.wrong(); planted > 0 {
			f.t.Errorf("%d wrong objects are left", planted)
		}
	}
	for _, path := range wrong {
		f.t.Errorf("the content of an object does not match its key: %s", path)
	}
	client := f.redis.Client(f.t)
	var left []string
	if !harness.Within(patience, func() bool {
		left = nil
		for _, pattern := range []string{"*:lease:*", "*:asks:*"} {
			keys, err := client.Keys(f.t.Context(), pattern).Result()
			if err != nil {
				return false
			}
			left = append(left, keys...)
		}
		return len(left) == 0
	}) {
		f.t.Errorf("leases are left: %q", left)
	}
}

// verify has the command of the operator remove the wrong objects of the bucket.
func (f *fleet) verify() {
	out, err := exec.CommandContext(f.t.Context(), f.binary(), "verify", "--bucket", "--config", f.replicas[0].configPath()).CombinedOutput()
	// It tells of the objects with its exit code, unless they have been evicted meanwhile.
	if failed, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || failed.ExitCode() != 1) {
		f.t.Errorf("weir verify: %v\n%s", err, out)
	}
}

// report is the table that the soak of replicas ends with.
func (f *fleet) report() string {
	b := f.common("the soak of replicas", fleetClients)
	_, planted, objects := f.bucket.wrong()
	b.row("redirects to the bucket, and bytes from there", "%d, %s", f.score.redirected.Load(), bytesOf(f.score.elsewhere.Load()))
	b.row("objects of content in the bucket; wrong ones that were planted, of them left", "%d; %d, %d", objects, len(f.bucket.planted), planted)
	if f.evictor != nil {
		b.row("objects evicted from the bucket; its size at the end", "%d; %s", f.bucket.evicted.Load(), bytesOf(f.bucket.bytes()))
		b.levels(f.evictor.observer, f.evictor.before, f.evictor.after)
	}
	b.row("downloads of a blob above 64 KiB that all replicas pulled at once at the end, at most", "%d", f.cold)
	for n, r := range f.replicas {
		b.row(fmt.Sprintf("**replica %d**: slowest start", n), "%s", r.slowest.Round(time.Millisecond))
		b.levels(r.observer, r.start, r.end)
	}
	return b.String()
}

// redis returns the deck of Redis.
func (m *troublemaker) redis() []trouble {
	server := m.soak.redis
	return []trouble{
		{name: "Redis killed", begin: server.Stop, end: server.Restart},
		{name: "Redis restarted", begin: func() { server.Stop(); server.Restart() }},
		{name: "Redis frozen", begin: server.Pause, end: server.Resume},
		{name: "Redis flushed", begin: func() {
			if err := server.Client(m.t).FlushAll(m.t.Context()).Err(); err != nil {
				m.t.Error(err)
			}
		}},
	}
}

// network returns the deck of the connections between replicas.
func (m *troublemaker) network(f *fleet) []trouble {
	one := func() *proxy { return f.replicas[rand.IntN(usualReplicas)].peers }
	under := func(name string, c conditions) trouble {
		var p *proxy
		return trouble{name: "network between replicas " + name, begin: func() { p = one(); p.set(c) }, end: func() { p.set(conditions{}) }}
	}
	var cut *proxy
	return []trouble{
		under("stalls", conditions{stalled: true}),
		under("resets connections", conditions{cutAfter: mib}),
		under("corrupts a byte of each body", conditions{corrupt: true}),
		under("is slow", conditions{pace: 20 * time.Millisecond}),
		{name: "network between replicas cut", begin: func() { cut = one(); cut.stop() }, end: func() { cut.start() }},
	}
}

// replicas returns the deck of the replicas. At least two of them are well.
func (m *troublemaker) replicas(f *fleet) []trouble {
	one := func() *replica { return f.replicas[rand.IntN(usualReplicas)] }
	var killed, frozen, lost *replica
	more := f.replicas[usualReplicas:]
	return []trouble{
		{name: "replica killed and started", begin: func() { r := one(); r.kill(); r.mirror.start() }},
		{name: "replica killed", begin: func() { killed = one(); killed.kill() }, end: func() { killed.mirror.start() }},
		{
			name:  "replica loses its disk",
			begin: func() { lost = one(); lost.kill() },
			end: func() {
				if err := os.RemoveAll(lost.data()); err != nil {
					m.t.Error(err)
				}
				lost.mirror.start()
			},
		},
		{
			name:  "replica frozen",
			begin: func() { frozen = one(); frozen.vanish(); frozen.Signal(syscall.SIGSTOP) },
			end:   func() { frozen.Signal(syscall.SIGCONT); frozen.appear() },
		},
		{name: "rolling restart", begin: func() {
			for _, r := range f.replicas[:usualReplicas] {
				r.leave()
				r.mirror.start()
			}
		}},
		{
			name:  "two replicas",
			begin: f.replicas[usualReplicas-1].leave,
			end:   func() { f.replicas[usualReplicas-1].mirror.start() },
		},
		{
			name: "five replicas",
			begin: func() {
				for _, r := range more {
					r.mirror.start()
				}
			},
			end: func() {
				for _, r := range more {
					r.leave()
				}
			},
		},
	}
}
