package tests

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// limiting is a registry that limits some of its requests for a minute.
type limiting struct {
	name    string
	options []upstreamtest.Option
	match   upstreamtest.Match // of the requests that are refused
	effect  upstreamtest.Effect
	// The first pull is told. Of the pulls after it, those that are limited get no
	// answer before the limit ends.
	first   string
	limited []string
	metric  []string // the operations of weir_upstream_cooldown that are 1
	// more is the number of requests to the registry by the limited pulls after the
	// first one.
	more int
}

// limitings are limits of every operation and host, as 429 and with a code.
func limitings() []limiting {
	limited := upstreamtest.Status(429, "")
	coded := func(status int) upstreamtest.Effect {
		return upstreamtest.Status(status, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`)
	}
	get, head := upstreamtest.Method(http.MethodGet), upstreamtest.Method(http.MethodHead)
	options := func(o ...upstreamtest.Option) []upstreamtest.Option { return o }
	bearer, cdn := upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{})
	everything := []string{"manifest", "blob", "tags", "referrers"}
	return []limiting{
		{"GET of manifests", nil, upstreamtest.All(get, upstreamtest.Manifests), limited, "manifest", []string{"manifest"}, []string{"manifest"}, 0},
		{"HEAD of manifests", nil, upstreamtest.All(head, upstreamtest.Manifests), limited, "head", []string{"manifest", "head"}, []string{"manifest"}, 0},
		{"manifests, 403 with the code", nil, upstreamtest.Manifests, coded(403), "manifest", []string{"manifest"}, []string{"manifest"}, 0},
		{"tags", nil, upstreamtest.Tags, limited, "tags", []string{"tags", "referrers"}, []string{"list"}, 0},
		{"tags, 400 with the code", nil, upstreamtest.Tags, coded(400), "tags", []string{"tags", "referrers"}, []string{"list"}, 0},
		{"referrers", nil, upstreamtest.Referrers, limited, "referrers", []string{"referrers", "tags"}, []string{"list"}, 0},
		{"blobs", nil, upstreamtest.Blobs, limited, "blob", []string{"blob"}, []string{"blob"}, 0},
		{"the CDN of blobs", options(cdn), upstreamtest.CDNBlobs, limited, "blob", []string{"blob"}, nil, 1},
		{"storage on the registry's host", options(upstreamtest.WithCDN(upstreamtest.CDN{OnRegistry: true})), upstreamtest.CDNBlobs, limited, "blob", []string{"blob"}, nil, 1},
		{"the token service", options(bearer), upstreamtest.Tokens, limited, "manifest", everything, []string{"token"}, 0},
		{"the token service, 403 with the code", options(bearer), upstreamtest.Tokens, coded(403), "tags", everything, []string{"token"}, 0},
	}
}

// A limit stops the operation, or the host, that set it. All other pulls go on.
func TestCooldownIsOfOneOperation(t *testing.T) {
	testutil.Long(t, "waits for the ends of limits")
	t.Parallel()
	all := limitings()
	upstreams, config := make([]*upstreamtest.Registry, len(all)), ""
	paths := make([]func(kind string) string, len(all))
	for i, l := range all {
		u := upstreamtest.New(t, l.options...)
		upstreams[i] = u
		image := u.AddImage("app", "v1", []byte(l.name))
		u.AddImage("app", "cached", []byte("cached of "+l.name))
		blob := addRandom(t, u, "app", kib, uint64(70000+i))
		paths[i] = func(kind string) string {
			return fmt.Sprintf("/v2/limit%d/app", i) + map[string]string{
				"manifest": "/manifests/v1", "head": "/manifests/cached", "blob": "/blobs/" + blob.String(),
				"tags": "/tags/list", "referrers": "/referrers/" + image.Digest.String(),
			}[kind]
		}
		config += blockOf(fmt.Sprint("limit", i), nil, at(u))
	}
	w := harness.StartWeir(t, config)
	for i, l := range all {
		t.Run(l.name, func(t *testing.T) {
			u := upstreams[i]
			if slices.Contains(l.limited, "head") { // a cached tag costs a HEAD
				expect(t, "before", w.Get(t, paths[i]("head")), http.StatusOK, "")
			}
			fault := u.Fault(l.match, l.effect, upstreamtest.Header("Retry-After", "60"))
			u.ResetRequests()
			pull := func(kind string) {
				t.Helper()
				a := w.Get(t, paths[i](kind))
				want := http.StatusOK
				if slices.Contains(l.limited, kind) && kind != "head" { // which is answered from the cache, stale
					want = http.StatusTooManyRequests
				}
				expect(t, kind, a, want, "")
				if after := a.Header.Get("Retry-After"); want == http.StatusTooManyRequests && len(after) != 2 {
					t.Errorf("%s: Retry-After %q", kind, after)
				}
			}
			pull(l.first)
			before := len(u.Requests())
			for _, kind := range l.limited {
				pull(kind)
			}
			if got := len(u.Requests()) - before; got != l.more || fault.Hits() != 1 {
				t.Errorf("%d more requests, want %d; %d were refused: %q", got, l.more, fault.Hits(), u.Requests())
			}
			for _, operation := range []string{"manifest", "blob", "list", "token"} {
				want := 0.0
				if slices.Contains(l.metric, operation) {
					want = 1
				}
				if got := w.Metric(t, "weir_upstream_cooldown", "upstream", u.Host, "operation", operation); got != want {
					t.Errorf("weir_upstream_cooldown of %s is %v, want %v", operation, got, want)
				}
			}
			for _, kind := range []string{"tags", "referrers", "blob", "manifest"} { // a cached tag would be a list of tags
				pull(kind)
			}
		})
	}
}

// A limit of the token service, or of the host behind a redirect, that one repository has
// stops no other repository of the same registry.
func TestCooldownOfAnotherHost(t *testing.T) {
	t.Parallel()
	for name, lead := range map[string]func(limited *upstreamtest.Registry) []upstreamtest.Effect{
		"a token service": func(limited *upstreamtest.Registry) []upstreamtest.Effect {
			return []upstreamtest.Effect{upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", limited.TokenURL()))}
		},
		"a redirect": func(limited *upstreamtest.Registry) []upstreamtest.Effect {
			return []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", limited.URL.String()+"/v2/other/manifests/v1")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limited := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
			limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600"))
			upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
			upstream.Fault(upstreamtest.Path("/hostile/"), lead(limited)...)
			image := upstream.AddImage("org/app", "v1", []byte("a layer of "+name))
			w := harness.StartWeir(t, block("mirror", upstream))
			for range 3 {
				expect(t, "limited", w.Get(t, manifestPath("mirror/hostile/app", "v1")), http.StatusTooManyRequests, "")
			}
			if got := len(limited.Log()); got != 1 {
				t.Errorf("the limited host got %d requests", got)
			}
			expectContent(t, "another repository", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
		})
	}
}

// A limit of blobs, of the CDN or of the token service cuts off no body under way.
func TestBodyOutlivesLimit(t *testing.T) {
	t.Parallel()
	const size = 2 * mib
	for i, c := range []struct {
		name    string
		options []upstreamtest.Option
		limited upstreamtest.Match    // of other pulls, while the body is under way
		resume  []upstreamtest.Effect // of the first request that resumes
		least   time.Duration         // that the rest takes
	}{
		{"blobs", nil, upstreamtest.Blobs, nil, 0},
		{"the CDN", []upstreamtest.Option{upstreamtest.WithCDN(upstreamtest.CDN{})}, upstreamtest.CDNBlobs, nil, 0},
		{"the token service", []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}, upstreamtest.Tokens, nil, 0},
		{"the body itself", nil, nil, []upstreamtest.Effect{upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "2")}, 2 * time.Second},
		{"maintenance", nil, nil, []upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "2")}, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t, c.options...)
			wanted := addRandom(t, upstream, "org/app", size, uint64(71000+2*i))
			other := addRandom(t, upstream, "other/app", kib, uint64(71001+2*i))
			gate := upstreamtest.NewGate()
			body := upstreamtest.Path(wanted.Encoded())
			delivers := body
			switch c.name {
			case "the CDN":
				delivers = upstreamtest.All(body, upstreamtest.CDNBlobs)
			case "the token service":
				delivers = upstreamtest.All(body, func(r *http.Request) bool { return r.Header.Get("Authorization") != "" })
			}
			upstream.Fault(delivers, upstreamtest.StallAfter(size/2, gate), upstreamtest.CutAfter(size/2+1)).Times(1)
			w := harness.StartWeir(t, block("mirror", upstream))
			p := w.Pull(t, blobPath("mirror/org/app", wanted))
			arrived(t, gate, 1)
			if c.limited != nil {
				limited := c.limited
				if c.name != "the token service" {
					limited = upstreamtest.All(c.limited, upstreamtest.Path(other.Encoded()))
				}
				upstream.Fault(limited, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600")).Times(1)
				for range 2 {
					expect(t, "another blob", w.Get(t, blobPath("mirror/other/app", other)), http.StatusTooManyRequests, "")
				}
			}
			if c.resume != nil {
				upstream.Fault(upstreamtest.All(delivers, ranged), c.resume...).Times(1)
			}
			start := time.Now()
			gate.Open()
			p.Whole(t, "the body", wanted)
			if took := time.Since(start); took < c.least {
				t.Errorf("the rest took %v", took)
			}
		})
	}
}

// Instances share the limit of an operation, that of a token service too, and go on with
// all other operations.
func TestCooldownOfOperationIsShared(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	upstream.AddImage("org/other", "v1", []byte("another layer"))
	blob := addRandom(t, upstream, "org/app", kib, 72000)
	config := fmt.Sprintf("[cache.redis]\nurl = %q\n", redis.URL()) + block("mirror", upstream)
	one, two := harness.StartWeir(t, config), harness.StartWeir(t, config)
	expect(t, "before", two.Get(t, "/v2/mirror/org/app/tags/list"), http.StatusOK, "")
	// One repository has a token service of its own.
	tenants := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	anonymous := func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }
	upstream.Fault(upstreamtest.All(upstreamtest.Path("/tenant/"), anonymous), upstreamtest.Status(401, ""),
		upstreamtest.Header("WWW-Authenticate", `Bearer realm="`+tenants.TokenURL()+`"`))
	upstream.Fault(upstreamtest.Path("/tenant/"), upstreamtest.Status(200, `{"name":"tenant/app","tags":["v1"]}`))
	limit := func(match upstreamtest.Match) {
		upstream.Fault(match, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600")).Times(1)
	}
	limit(upstreamtest.Tokens)
	expect(t, "a new token", one.Get(t, manifestPath("mirror/org/other", "v1")), http.StatusTooManyRequests, "")
	two.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", upstream.Host, "operation", "token")
	tokens := len(upstream.TokenRequests())
	expect(t, "a new token, of the other instance", two.Get(t, manifestPath("mirror/org/other", "v1")), http.StatusTooManyRequests, "")
	expectContent(t, "a known token", two.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, "")
	for _, w := range []*harness.Weir{one, two} {
		expect(t, "another token service", w.Get(t, "/v2/mirror/tenant/app/tags/list"), http.StatusOK, "")
	}
	if got := len(upstream.TokenRequests()); got != tokens {
		t.Errorf("%d token requests during the limit", got-tokens)
	}

	limit(upstreamtest.Tags)
	expect(t, "tags", two.Get(t, "/v2/mirror/org/app/tags/list?n=1"), http.StatusOK, statusStale)
	one.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", upstream.Host, "operation", "list")
	expectContent(t, "a blob", one.Get(t, blobPath("mirror/org/app", blob)), blob, "")
	for _, operation := range []string{"manifest", "blob"} {
		if got := one.Metric(t, "weir_upstream_cooldown", "operation", operation); got != 0 {
			t.Errorf("weir_upstream_cooldown of %s is %v", operation, got)
		}
	}
}

// Both upstreams are away at once: a body under way survives that, and the pulls after it
// find an upstream within moments of its return.
func TestBothUpstreamsAway(t *testing.T) {
	t.Parallel()
	const size = 2 * mib
	for i, c := range []struct {
		name   string
		outage time.Duration
		back   func(first, second *upstreamtest.Registry)
	}{
		{"both restart", 3 * time.Second, func(first, second *upstreamtest.Registry) { first.Reopen(); second.Reopen() }},
		{"the second one is back", 4 * time.Second, func(_, second *upstreamtest.Registry) { second.Reopen() }},
		{"a moment", time.Second, func(first, _ *upstreamtest.Registry) { first.Reopen() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := upstreamtest.New(t), upstreamtest.New(t)
			var image digest.Digest
			var blob digest.Digest
			for _, u := range []*upstreamtest.Registry{first, second} {
				image = u.AddImage("org/app", "v1", []byte(c.name)).Digest
				blob = addRandom(t, u, "org/app", size, uint64(73000+i))
			}
			gate := upstreamtest.NewGate()
			first.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/2, gate)).Times(1)
			w := harness.StartWeir(t, blockOf("mirror", nil, at(first), at(second)))
			p := w.Pull(t, blobPath("mirror/org/app", blob))
			arrived(t, gate, 1)
			first.Close()
			second.Close()
			away := time.Now()
			for time.Since(away) < c.outage {
				asked := time.Now()
				expect(t, "during the outage", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusBadGateway, "")
				if took := time.Since(asked); took > 10*time.Second {
					t.Errorf("a request took %v", took)
				}
				time.Sleep(100 * time.Millisecond)
			}
			c.back(first, second)
			back := time.Now()
			harness.Eventually(t, "an upstream is found", func() bool {
				return w.Get(t, manifestPath("mirror/org/app", "v1")).Status == http.StatusOK
			})
			if took := time.Since(back); took > 20*time.Second { // a second, if the machine is not busy
				t.Errorf("the return of an upstream was noticed after %v", took)
			}
			expectContent(t, "after the outage", w.Get(t, manifestPath("mirror/org/app", "v1")), image, "")
			p.Whole(t, "the body under way", blob)
		})
	}
}
