package tests

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// One instance is told to come back later; no other one with that account asks.
func TestRateLimitShared(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	hub, other := upstreamtest.New(t), upstreamtest.New(t)
	image := hub.AddImage("org/app", "v1", []byte("a layer"))
	other.AddImage("org/app", "v1", []byte("a layer"))
	credentials := fmt.Sprintf("username = %q\npassword = %q", username, password)
	config := fmt.Sprintf("[cache.redis]\nurl = %q\n", redis.URL()) +
		block("mirror", hub) + blockOf("account", nil, at(hub, credentials)) +
		blockOf("slower", nil, at(hub, "read_timeout_secs = 30")) + blockOf("chain", nil, at(hub), at(other))
	one, two := harness.StartWeir(t, config), harness.StartWeir(t, config)
	expectContent(t, "before", two.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	hub.ResetRequests()

	fault := hub.Fault(upstreamtest.Any, upstreamtest.Status(429, "slow down"), upstreamtest.Header("Retry-After", "600")).Times(1)
	expect(t, "the one that is told", one.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusTooManyRequests, "")
	two.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", hub.Host, "operation", "manifest")
	three := harness.StartWeir(t, config)
	three.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", hub.Host, "operation", "manifest")
	expectWire(t, hub, "the one that is told", "GET /v2/org/app/manifests/v1 429")

	for name, w := range map[string]*harness.Weir{"one": one, "two": two, "three": three} {
		a := w.Get(t, manifestPath("mirror/org/app", "v2"))
		expect(t, name, a, http.StatusTooManyRequests, "")
		if after := a.Header.Get("Retry-After"); len(after) != 3 {
			t.Errorf("%s: Retry-After %q, want the rest of 600", name, after)
		}
		expect(t, name+", another block", w.Get(t, manifestPath("slower/org/app", "v2")), http.StatusTooManyRequests, "")
		expect(t, name+", the next upstream", w.Get(t, manifestPath("chain/org/app", "v1")), http.StatusOK, "")
	}
	expectContent(t, "stale", two.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStale)
	expectWire(t, hub, "while it rests")
	if got := fault.Hits(); got != 1 {
		t.Errorf("told 429 %d times", got)
	}
	// The account has a limit of its own.
	expect(t, "with an account", two.Get(t, manifestPath("account/org/app", "v1")), http.StatusOK, "")
	keys := redisCommands(t, redis.Addr(), "KEYS *")
	if !strings.Contains(keys, "weir:cooldown:") || strings.Contains(keys, username) || strings.Contains(keys, hub.Host) {
		t.Errorf("the keys in Redis are %q", keys)
	}
}

// Without Redis each instance learns for itself, and says once that it does.
func TestRateLimitWithoutRedis(t *testing.T) {
	testutil.Long(t, "waits for the breaker of shared cooldowns")
	t.Parallel()
	redis := redistest.Start(t)
	redis.Stop()
	hub := upstreamtest.New(t)
	hub.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, fmt.Sprintf("[cache.redis]\nurl = %q\n", redis.URL())+block("mirror", hub))
	w.Logs(t, "rate limits of upstreams are not shared until Redis is back")
	hub.Fault(upstreamtest.Any, upstreamtest.Status(429, "")).Times(1)
	for range 3 {
		expect(t, "limited", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusTooManyRequests, "")
	}
	expectWire(t, hub, "limited", "GET /v2/org/app/manifests/v1 429")
	redis.Restart()
	w.Logs(t, "rate limits of upstreams are shared through Redis again")
	two := harness.StartWeir(t, fmt.Sprintf("[cache.redis]\nurl = %q\n", redis.URL())+block("mirror", hub))
	two.MetricIs(t, 1, "weir_upstream_cooldown", "operation", "manifest")
	if got := w.Log.Count("rate limits of upstreams are not shared"); got != 1 {
		t.Errorf("the log says %d times that nothing is shared, want once", got)
	}
}

// blackHole returns an address that does not accept connections and refuses none
// either: a listener whose queue is full.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr // the queue is full
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue of a listener does not fill up")
	return ""
}

// From the fourth request on, a first upstream that does not accept connections
// costs next to nothing, whether it refuses them or is silent.
func TestDeadFirstUpstream(t *testing.T) {
	t.Parallel()
	refusing, second := upstreamtest.New(t), upstreamtest.New(t)
	refusing.Close()
	silent := blackHole(t)
	w := harness.StartWeir(t, blockOf("refusing", nil, at(refusing), at(second))+
		blockOf("silent", nil, []string{fmt.Sprintf("url = %q", "http://"+silent), "connect_timeout_secs = 1"}, at(second)))
	image := second.AddImage("org/app", "v1", []byte("a layer"))
	pull := func(name string) time.Duration {
		start := time.Now()
		expectContent(t, name, w.Get(t, manifestPath(name+"/org/app", "v1")), image.Digest, "")
		return time.Since(start)
	}
	for _, name := range []string{"refusing", "silent"} {
		for i := range 3 {
			if took := pull(name); name == "silent" && took < time.Second {
				t.Fatalf("request %d took %v: something accepted the connection", i, took)
			}
		}
		w.Logs(t, "the upstream is unreachable, backing off")
		host := map[string]string{"refusing": refusing.Host, "silent": silent}[name]
		began, before := time.Now(), w.Metric(t, "weir_upstream_requests_total", "upstream", host)
		for range 41 {
			pull(name)
		}
		// The client looks whether the upstream is back, first after 10 s.
		if asked, looks := w.Metric(t, "weir_upstream_requests_total", "upstream", host)-before, math.Ceil(time.Since(began).Seconds()/10); asked > looks {
			t.Errorf("%s: the dead upstream was asked %v times, want %v at most", name, asked, looks)
		}
		harness.Eventually(t, "the cooldown is a metric", func() bool {
			pull(name)
			return w.Metric(t, "weir_upstream_cooldown", "upstream", host, "operation", "blob") == 1
		})
	}
}

// No client takes wrong bytes for an image; a retry succeeds if any upstream is
// sane; and an upstream that delivers wrong bytes repeatedly gets a cooldown.
func TestLiar(t *testing.T) {
	t.Parallel()
	const size = mib
	liar, sane := upstreamtest.New(t), upstreamtest.New(t)
	liar.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(size-tail/2))
	w := harness.StartWeir(t, blockOf("mirror", nil, at(liar), at(sane))+block("alone", liar))
	for i := range 3 {
		dgst := addRandom(t, liar, "org/app", size, uint64(30000+i))
		addRandom(t, sane, "org/app", size, uint64(30000+i))
		p := w.Pull(t, blobPath("mirror/org/app", dgst)).Wait(t)
		if p.Err == nil && p.Digest != dgst {
			t.Errorf("blob %d: the client took %d wrong bytes for whole", i, p.Length)
		}
		if p.Err != nil && p.Length > size-tail {
			t.Errorf("blob %d: the client got %d bytes, of which the last %d ought to be withheld", i, p.Length, tail)
		}
		expectContent(t, fmt.Sprint("blob ", i, ", again"), w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
	}
	w.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", liar.Host, "operation", "blob")
	w.Logs(t, "delivered corrupt content repeatedly", liar.Host)
	if got := w.Metric(t, "weir_upstream_requests_total", "upstream", liar.Host, "operation", "blob", "class", "unavailable"); got < 3 {
		t.Errorf("%v failures of the liar are counted, want one for each blob", got)
	}
	liar.ResetRequests()
	dgst := addRandom(t, sane, "org/app", size, 30099)
	w.Pull(t, blobPath("mirror/org/app", dgst)).Whole(t, "while it rests", dgst)
	expectWire(t, liar, "while it rests")
	// Where no other upstream can answer, it is asked anyway, once for each pull, and
	// the trouble goes on.
	liar.ResetRequests()
	const alone = 10
	for i := range alone {
		dgst := addRandom(t, liar, "org/app", size, uint64(31000+i))
		if p := w.Pull(t, blobPath("alone/org/app", dgst)).Wait(t); p.Err == nil && p.Digest != dgst {
			t.Errorf("alone, blob %d: the client took %d wrong bytes for whole", i, p.Length)
		}
	}
	if got := len(liar.Requests()); got < alone || got > 2*alone {
		t.Errorf("the liar got %d requests for %d pulls", got, alone)
	}
	if begins, ends := w.Log.Count("the upstream delivered corrupt content repeatedly"), w.Log.Count("is back")+w.Log.Count("reachable again"); begins != 1 || ends != 0 {
		t.Errorf("the log has %d begins and %d ends of its trouble, want 1 and 0", begins, ends)
	}
	w.ExpectIntact(t)
}

// A storm of one registry's downloads does not keep another registry's waiting
// until it is over, and the bound on all of them holds.
func TestFairAdmission(t *testing.T) {
	t.Parallel()
	const storm = 8
	busy, quiet := upstreamtest.New(t), upstreamtest.New(t)
	var gates []*upstreamtest.Gate
	var pulls []*harness.Pulling
	var blobs []digest.Digest
	w := harness.StartWeir(t, "[global]\nmax_concurrent_fetches = 2\n"+block("busy", busy)+block("quiet", quiet))
	for i := range storm {
		gate := upstreamtest.NewGate()
		blobs = append(blobs, addRandom(t, busy, "org/app", 64*kib, uint64(40000+i)))
		busy.Fault(upstreamtest.Path(blobs[i].Encoded()), upstreamtest.Hold(gate))
		gates = append(gates, gate)
		pulls = append(pulls, w.Pull(t, blobPath("busy/org/app", blobs[i])))
		w.MetricIs(t, float64(i+1), "weir_downloads") // so that they wait in this order
	}
	arrived(t, gates[0], 1)
	arrived(t, gates[1], 1)
	wanted := addRandom(t, quiet, "org/app", 64*kib, 40099)
	p := w.Pull(t, blobPath("quiet/org/app", wanted))
	// One of the busy registry's downloads yields, since it has more than its half.
	p.Whole(t, "the quiet registry's", wanted)
	for _, gate := range gates {
		gate.Open()
	}
	for i := range gates {
		pulls[i].Whole(t, fmt.Sprint("blob ", i, " of the storm"), blobs[i])
	}
}

// An upstream that fails is asked, and asked again, as often for many clients
// as for one.
func TestHerdSharesRetries(t *testing.T) {
	t.Parallel()
	const clients = 50
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	blob := addRandom(t, upstream, "org/app", mib, 50000)
	for name, c := range map[string]struct {
		path     string
		effects  []upstreamtest.Effect
		requests int
	}{
		"tag":         {manifestPath("mirror/org/app", "v1"), []upstreamtest.Effect{upstreamtest.Status(503, "")}, 3},
		"manifest":    {manifestPath("mirror/org/app", image.Digest.String()), []upstreamtest.Effect{upstreamtest.Drop()}, 3},
		"blob":        {blobPath("mirror/org/app", blob), []upstreamtest.Effect{upstreamtest.Status(503, "")}, 3},
		"blob, begun": {blobPath("mirror/org/app", blob), []upstreamtest.Effect{upstreamtest.IgnoreRange(), upstreamtest.CutAfter(mib / 2)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			gate := upstreamtest.NewGate()
			upstream.Fault(upstreamtest.Any, append(c.effects, upstreamtest.Hold(gate))...)
			upstream.ResetRequests()
			w := harness.StartWeir(t, block("mirror", upstream))
			var idle float64
			harness.Eventually(t, "the mirror is idle", func() bool { // its start may have left work running
				before := idle
				idle = w.Metric(t, "go_goroutines")
				return idle == before
			})
			var pulls []*harness.Pulling
			for range clients {
				pulls = append(pulls, w.Pull(t, c.path))
			}
			arrived(t, gate, 1)
			// Each waiting request has two goroutines at least.
			harness.Eventually(t, "all clients wait", func() bool { return w.Metric(t, "go_goroutines") >= idle+2*clients })
			if strings.HasPrefix(name, "blob") {
				w.MetricIs(t, clients, "weir_download_readers")
			}
			gate.Open()
			for i, p := range pulls {
				if p.Wait(t); p.Err == nil && p.Status < 500 {
					t.Errorf("client %d: %d", i, p.Status)
				}
			}
			if got := upstream.Requests(); len(got) != c.requests {
				t.Errorf("the upstream was asked %d times, want %d: %q", len(got), c.requests, got)
			}
			upstream.ClearFaults()
		})
	}
}
