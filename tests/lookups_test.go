package tests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// resets sends requests on one connection of HTTP/2, and resets each one after 10 ms.
func resets(t *testing.T, w *harness.Weir, method string, paths []string) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	together(paths, func(path string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, w.URL+path, nil)
		if err != nil {
			t.Error(err)
		} else if resp, err := transport.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	})
}

// departures sends each request on a connection of its own, and closes that after 10 ms.
func departures(t *testing.T, w *harness.Weir, method string, paths []string) {
	together(paths, func(path string) {
		conn, err := net.Dial("tcp", w.URL[len("http://"):])
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: mirror\r\n\r\n", method, path)
		time.Sleep(10 * time.Millisecond)
	})
}

// together calls a function for all paths, 45 at once.
func together(paths []string, call func(path string)) {
	queue := make(chan string)
	var workers sync.WaitGroup
	for range 45 {
		workers.Go(func() {
			for path := range queue {
				call(path)
			}
		})
	}
	for _, path := range paths {
		queue <- path
	}
	close(queue)
	workers.Wait()
}

// Clients that ask and leave again and again, in many ways, have few lookups, which end
// soon after them. Other registries answer meanwhile.
func TestResetsKeepNoLookups(t *testing.T) {
	testutil.Long(t, "attacks in eight ways")
	t.Parallel()
	tag := func(i int) string { return manifestPath("slow/org/app", fmt.Sprint("v", i)) }
	byDigest := func(kind string) func(i int) string {
		return func(i int) string {
			return fmt.Sprintf("/v2/slow/org/app/%s/%s", kind, digest.FromString(fmt.Sprint(i)))
		}
	}
	for name, c := range map[string]struct {
		attack   func(*testing.T, *harness.Weir, string, []string)
		method   string
		path     func(i int) string
		requests int
		each     int // requests upstream of a lookup: one, and another one for a token
		hangs    upstreamtest.Match
	}{
		"resets of manifests":           {resets, "GET", tag, 3375, 1, upstreamtest.Any},
		"resets of HEADs":               {resets, "HEAD", tag, 1000, 1, upstreamtest.Any},
		"resets of HEADs of blobs":      {resets, "HEAD", byDigest("blobs"), 1000, 1, upstreamtest.Any},
		"resets of referrers":           {resets, "GET", byDigest("referrers"), 1000, 1, upstreamtest.Any},
		"resets of lists":               {resets, "GET", func(i int) string { return fmt.Sprintf("/v2/slow/org/app%d/tags/list", i) }, 1000, 1, upstreamtest.Any},
		"departures of manifests":       {departures, "GET", tag, 1000, 1, upstreamtest.Any},
		"departures of referrers":       {departures, "GET", byDigest("referrers"), 1000, 1, upstreamtest.Any},
		"resets, a token service hangs": {resets, "GET", func(i int) string { return manifestPath(fmt.Sprint("slow/org/app", i), "v1") }, 1000, 2, upstreamtest.Tokens},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const bound = 64
			slow, other := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{})), upstreamtest.New(t)
			slow.AddImage("org/app", "cached", []byte("a layer"))
			other.AddImage("org/app", "v1", []byte("a layer"))
			w := harness.StartWeir(t, blockOf("slow", []string{`serve_stale_on = ["unavailable"]`, `tag_ttl = "0s"`}, at(slow))+block("other", other))
			expect(t, "before", w.Get(t, manifestPath("slow/org/app", "cached")), http.StatusOK, statusStored)
			gate := upstreamtest.NewGate()
			slow.Fault(c.hangs, upstreamtest.Hold(gate))
			slow.ResetRequests()
			var paths []string
			for i := range c.requests {
				paths = append(paths, c.path(i))
			}
			began := time.Now()
			c.attack(t, w, c.method, paths)
			asked := time.Now()
			expect(t, "another registry", w.Get(t, manifestPath("other/org/app", "v1")), http.StatusOK, statusStored)
			if took := time.Since(asked); took > 30*time.Second { // a lookup of the slow one takes a minute
				t.Errorf("another registry's manifest took %s", took)
			}
			harness.Eventually(t, "the lookups have ended", func() bool {
				return w.Metric(t, "weir_lookups", "namespace", "slow") == 0
			})
			sent := len(slow.Requests()) + len(slow.TokenRequests())
			generations := int(time.Since(began)/(2*time.Second)) + 1
			t.Logf("%d requests made %d upstream", c.requests, sent)
			if most := c.each * bound * generations; sent > most {
				t.Errorf("%d requests upstream, want at most %d: %d at once, for 2 s", sent, most, bound)
			}
			gate.Open()
		})
	}
}

// An upstream hangs while patient clients ask for many tags. Cached tags are served stale
// soon, other blocks notice nothing, and all clients have an answer within twice the time
// limit of the upstream. It is found when it is back.
func TestHangingUpstream(t *testing.T) {
	testutil.Long(t, "waits for the time limit of an upstream")
	t.Parallel()
	slow, other := upstreamtest.New(t), upstreamtest.New(t)
	cached := slow.AddImage("org/app", "cached", []byte("a layer"))
	image := other.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, blockOf("slow", []string{`serve_stale_on = ["unavailable"]`, `tag_ttl = "0s"`}, at(slow, "read_timeout_secs = 20"))+block("other", other))
	expect(t, "before", w.Get(t, manifestPath("slow/org/app", "cached")), http.StatusOK, statusStored)
	hang := slow.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
	slow.ResetRequests()
	const requests = 400
	answers := make(chan int, requests)
	began := time.Now()
	for i := range requests {
		go func() {
			resp, err := http.Get(w.URL + manifestPath("slow/org/app", fmt.Sprint("v", i)))
			if err != nil {
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
	}
	w.MetricIs(t, requests-64, "weir_lookups", "namespace", "slow", "state", "waiting")
	if sent := len(slow.Requests()); sent != 64 {
		t.Errorf("%d requests upstream, want 64", sent)
	}
	asked := time.Now()
	stale := w.Get(t, manifestPath("slow/org/app", "cached"))
	expectContent(t, "a cached tag", stale, cached.Digest, statusStale)
	expectContent(t, "another block", w.Get(t, manifestPath("other/org/app", "v1")), image.Digest, statusStored)
	expectContent(t, "a cached manifest", w.Get(t, manifestPath("slow/org/app", cached.Digest.String())), cached.Digest, statusHit)
	if took := time.Since(asked); took > 30*time.Second {
		t.Errorf("they took %s", took)
	}
	for range requests {
		if status := <-answers; status != http.StatusGatewayTimeout {
			t.Errorf("a client got %d", status)
		}
	}
	// A lookup that began in the moment before the third failure has a time limit of its own.
	if took := time.Since(began); took > 50*time.Second {
		t.Errorf("the last client waited for %s", took)
	}
	asked = time.Now()
	expectContent(t, "a cached tag, later", w.Get(t, manifestPath("slow/org/app", "cached")), cached.Digest, statusStale)
	if took := time.Since(asked); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	hang.Remove()
	harness.Eventually(t, "the upstream is back", func() bool {
		return w.Get(t, manifestPath("slow/org/app", "cached")).Header.Get("Cache-Status") == statusRevalidated
	})
}

// Answers of one byte a second end a little after a minute.
func TestDrippingAnswers(t *testing.T) {
	testutil.Long(t, "waits for a minute")
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	for range 3 {
		upstream.AddReferrer("org/app", image, "application/x", random(t, 100, 1))
	}
	for i := range 40 {
		upstream.Tag("org/app", fmt.Sprint("another-tag-", i), image.Digest)
	}
	w := harness.StartWeir(t, block("mirror", upstream))
	upstream.Fault(upstreamtest.Method(http.MethodGet), upstreamtest.Drip(1))
	began := time.Now()
	var clients sync.WaitGroup
	for _, path := range []string{
		manifestPath("mirror/org/app", "v1"), manifestPath("mirror/org/app", image.Digest.String()),
		"/v2/mirror/org/app/tags/list", "/v2/mirror/org/app/referrers/" + image.Digest.String(),
	} {
		clients.Go(func() {
			resp, err := http.Get(w.URL + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if took := time.Since(began); resp.StatusCode != http.StatusGatewayTimeout || took < 55*time.Second || took > 75*time.Second {
				t.Errorf("%s: %s after %s", path, resp.Status, took)
			}
		})
	}
	clients.Wait()
	w.MetricIs(t, 0, "weir_lookups")
}

// Upstreams of three blocks let long lists drip, fast enough for a list by itself, and take
// all places for long documents. The list of an honest registry has a place soon.
func TestDrippingListsGiveWay(t *testing.T) {
	testutil.Long(t, "waits for the time that a slow document may keep its place")
	t.Parallel()
	const places, entries = 3, 10_000
	honest := upstreamtest.New(t)
	image := honest.AddImage("org/app", "v1", []byte("a layer"))
	for i := range entries {
		honest.Tag("org/app", fmt.Sprintf("a-tag-with-a-long-name-%010d", i), image.Digest)
	}
	config := block("mirror", honest)
	var dripping sync.WaitGroup
	for i := range places {
		dripping.Add(1)
		config += blockOf(fmt.Sprint("drip", i), nil, []string{fmt.Sprintf("url = %q", drippingList(t, dripping.Done))})
	}
	w := harness.StartWeir(t, config)
	hostile := make([]*harness.Pulling, places)
	for i := range places {
		hostile[i] = w.Pull(t, fmt.Sprintf("/v2/drip%d/org/app/tags/list", i))
	}
	dripping.Wait()
	asked := time.Now()
	list := w.Pull(t, "/v2/mirror/org/app/tags/list")
	// Without a place before a slow list ends, the honest one has to wait for minutes.
	if !harness.Within(time.Minute, func() bool { return ended([]*harness.Pulling{list}) }) {
		t.Fatalf("an honest list has no answer after a minute, and %v lookups run", w.Metric(t, "weir_lookups", "state", "running"))
	}
	if list.Status != http.StatusOK || list.Err != nil {
		t.Errorf("an honest list is %d, %v", list.Status, list.Err)
	}
	t.Logf("an honest list of %d bytes took %s beside %d that drip", list.Length, time.Since(asked).Round(time.Millisecond), places)
}

// drippingList is a registry whose lists of tags begin with 300 KiB, and go on with 24 KiB/s
// for five minutes. It tells when it has come that far.
func drippingList(t *testing.T, drips func()) (url string) {
	t.Helper()
	var once sync.Once
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return
		}
		_, _ = fmt.Fprintf(w, `{"name":"org/app","tags":["v1"%s`, strings.Repeat(`,"a-tag-of-a-slow-list"`, 300*kib/23))
		for n := 0; r.Context().Err() == nil; n++ {
			_, _ = fmt.Fprint(w, strings.Repeat(`,"a-tag-of-a-slow-list"`, 2400/23))
			_ = http.NewResponseController(w).Flush()
			if n == 10 {
				once.Do(drips)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}
