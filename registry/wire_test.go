package registry_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// named gives a block a key of its own.
func named(key string) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.Key, s.Host = key, key }
}

// of makes a block read several registries, in their order.
func of(t *testing.T, registries ...*upstreamtest.Registry) func(*namespace.Spec) {
	var clients []upstream.Member
	var hosts []string
	for _, r := range registries {
		c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
		t.Cleanup(c.Close)
		clients, hosts = append(clients, c), append(hosts, r.Host)
	}
	return func(s *namespace.Spec) {
		s.Upstreams, s.UpstreamHosts = upstream.NewChain(upstream.ChainOptions{}, clients...), hosts
	}
}

// wantRequests fails the test unless the upstream got exactly these requests
// since the last call.
func wantRequests(t *testing.T, r *upstreamtest.Registry, label string, want ...string) {
	t.Helper()
	if got := r.Requests(); !slices.Equal(got, want) {
		t.Errorf("%s: the upstream was asked %q, want %q", label, got, want)
	}
	r.ResetRequests()
}

// When all upstreams fail, the client learns of the failure that a retry is most
// likely to mend.
func TestFailuresOnTheWire(t *testing.T) {
	status := func(status int) upstreamtest.Effect { return upstreamtest.Status(status, "") }
	cases := []struct {
		name          string
		first, second upstreamtest.Effect
		status        int
		code          string
	}{
		{"missing", status(404), status(404), 404, "MANIFEST_UNKNOWN"},
		{"bad-name", status(404), upstreamtest.Status(400, `{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}`), 404, "MANIFEST_UNKNOWN"},
		{"gone", upstreamtest.Status(410, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}`), status(404), 404, "MANIFEST_UNKNOWN"},
		{"gone-elsewhere", status(410), status(404), 502, "UNAVAILABLE"},
		{"own-code", upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}`), status(404), 404, "NAME_UNKNOWN"},
		{"denied", status(403), status(403), 403, "DENIED"},
		{"denied-401", status(401), status(404), 403, "DENIED"},
		{"missing-denied", status(404), status(403), 403, "DENIED"},
		{"missing-broken", status(404), status(500), 502, "UNAVAILABLE"},
		{"denied-broken", status(403), status(503), 502, "UNAVAILABLE"},
		{"dropped", upstreamtest.Drop(), status(404), 502, "UNAVAILABLE"},
		{"limited", status(429), status(429), 429, "TOOMANYREQUESTS"},
		{"limited-missing", status(429), status(404), 429, "TOOMANYREQUESTS"},
		{"limited-broken", status(500), status(429), 429, "TOOMANYREQUESTS"},
	}
	var blocks []namespace.Spec
	for _, c := range cases {
		first, second := upstreamtest.New(t), upstreamtest.New(t)
		first.Fault(upstreamtest.Any, c.first)
		second.Fault(upstreamtest.Any, c.second)
		blocks = append(blocks, block(t, first, named(c.name), of(t, first, second)))
	}
	m := newMirror(t, blocks...)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := m.do("GET", "/v2/"+c.name+"/org/app/manifests/v1")
			wantError(t, w, c.status, c.code)
			if limited := w.Header().Get("Retry-After") != ""; limited != (c.status == http.StatusTooManyRequests) {
				t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
			}
		})
	}
}

// A definite "not found" is remembered for negative_ttl, and only that.
func TestNotFoundIsRemembered(t *testing.T) {
	r := upstreamtest.New(t)
	remembering := func(ttl time.Duration) func(*namespace.Spec) {
		return func(s *namespace.Spec) { s.NegativeTTL = ttl }
	}
	m := newMirror(t, block(t, r, named("long"), remembering(time.Hour)), block(t, r, named("off"), remembering(0)))
	for range 2 {
		wantStatus(t, m.do("GET", "/v2/long/org/app/manifests/v1"), http.StatusNotFound)
	}
	wantRequests(t, r, "remembered", "GET /v2/org/app/manifests/v1 404")
	for range 2 {
		wantStatus(t, m.do("GET", "/v2/off/org/app/manifests/v1"), http.StatusNotFound)
	}
	wantRequests(t, r, "not remembered", "GET /v2/org/app/manifests/v1 404", "GET /v2/org/app/manifests/v1 404")
}

// Only configured upstreams are asked, for any value of ns.
func TestHostileNamespace(t *testing.T) {
	r, victim := upstreamtest.New(t), upstreamtest.New(t)
	victim.AddImage("org/app", "v1", []byte("internal"))
	m := newMirror(t, block(t, r, func(s *namespace.Spec) { s.Default = true }))
	for _, ns := range []string{victim.Host, victim.URL.String(), "localhost", "169.254.169.254", "mirror/../..", "%00", "a\r\nb"} {
		w := m.do("GET", "/v2/org/app/manifests/v1?ns="+strings.NewReplacer("\r", "%0d", "\n", "%0a").Replace(ns))
		wantStatus(t, w, http.StatusNotFound)
		wantHeader(t, w.Header(), "OCI-Namespace", "")
	}
	wantRequests(t, victim, "the victim")
}
