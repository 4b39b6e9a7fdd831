package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A request that has come back is answered at once, and reaches no upstream.
func TestLoops(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	eight := strings.TrimSuffix(strings.Repeat("1.1 weir-a1, ", 8), ", ")
	for _, test := range []struct {
		name, target, header, value string
		loop                        bool
	}{
		{"a client's", "/v2/up.example/app/manifests/v1", "", "", false},
		{"a proxy's", "/v2/up.example/app/manifests/v1", "Via", "1.1 varnish", false},
		{"another mirror's", "/v2/up.example/app/manifests/v1", "Via", "1.1 weir-a1", false},
		{"of eight mirrors", "/v2/up.example/app/manifests/v1", "Via", eight, false},
		{"of nine mirrors", "/v2/up.example/app/manifests/v1", "Via", eight + ", 1.1 weir-b2", true},
		{"of nine mirrors, by CDN-Loop", "/v2/up.example/app/manifests/v1", "Cdn-Loop", strings.Repeat("weir-a1,", 9), true},
		{"one's own", "/v2/up.example/app/manifests/v1", "Via", "1.1 weir-me", true},
		{"one's own before others", "/v2/up.example/app/manifests/v1", "Via", "1.1 weir-me, 1.1 weir-a1, 1.1 nginx", true},
		{"one's own by CDN-Loop", "/v2/up.example/app/manifests/v1", "Cdn-Loop", "cloudflare, weir-me", true},
		{"a blob", "/v2/up.example/app/blobs/" + sha256Dig, "Via", "1.1 weir-me", true},
		{"a list", "/v2/up.example/app/tags/list", "Via", "1.1 weir-me", true},
		{"referrers", "/v2/up.example/app/referrers/" + sha256Dig, "Via", "1.1 weir-me", true},
		{"a ping", "/v2/", "Via", "1.1 weir-me", true},
		{"an unknown name", "/v2/elsewhere/app/manifests/v1", "Via", "1.1 weir-me", true},
	} {
		r.ResetRequests()
		var header []string
		if test.header != "" {
			header = []string{test.header, test.value}
		}
		w := m.do("GET", test.target, header...)
		m.settle()
		if !test.loop {
			wantStatus(t, w, 200)
			continue
		}
		message := wantError(t, w, 508, "LOOP")
		if named := strings.Contains(message, "up.example"); strings.Contains(test.value, "weir-me") && named != strings.Contains(test.target, "up.example") {
			t.Errorf("%s: the message is %q", test.name, message)
		}
		wantRequests(t, r, test.name)
	}
}

// The block whose upstream leads back is known by the host at which the request came
// in, although another block would answer it.
func TestLoopNamesItsBlock(t *testing.T) {
	r := upstreamtest.New(t)
	m := newMirror(t,
		block(t, r, named("docker.io"), func(s *namespace.Spec) { s.Default = true }),
		block(t, r, named("quay.io"), func(s *namespace.Spec) { s.UpstreamHosts = []string{"Example.com"} })) // the host of httptest's requests
	w := m.do("GET", "/v2/org/app/manifests/v1", "Via", "1.1 weir-me")
	if message := wantError(t, w, 508, "LOOP"); message != "the upstream of quay.io leads back to this mirror" {
		t.Errorf("the message is %q", message)
	}
}

// Requests to upstreams carry the mirrors that a client's request has passed, and
// this one: lookups, downloads, and the content behind a redirect.
func TestTrailGoesAlong(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("app", "v1", []byte("a layer"))
	m := newMirror(t, block(t, r, func(s *namespace.Spec) {
		c := upstream.NewClient(upstream.Options{URL: r.URL, ID: "weir-me", ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
		t.Cleanup(c.Close)
		s.Upstreams = c
	}))
	for _, test := range []struct{ method, target, before, want string }{
		{"HEAD", "/v2/up.example/app/manifests/v1", "", "1.1 weir-me"},
		{"GET", "/v2/up.example/app/manifests/v1", "1.1 varnish, 1.1 weir-a1", "1.1 weir-a1, 1.1 weir-me"},
		{"GET", "/v2/up.example/app/blobs/" + digest.FromString("a layer").String(), "1.1 weir-a1, 1.1 weir-b2", "1.1 weir-a1, 1.1 weir-b2, 1.1 weir-me"},
		{"GET", "/v2/up.example/app/tags/list", "1.1 weir-a1", "1.1 weir-a1, 1.1 weir-me"},
		{"GET", "/v2/up.example/app/referrers/" + sha256Dig, "1.1 weir-a1", "1.1 weir-a1, 1.1 weir-me"},
	} {
		r.ResetRequests()
		m.do(test.method, test.target, "Via", test.before)
		m.settle()
		records := r.Log()
		if len(records) == 0 {
			t.Errorf("%s %s: the upstream was not asked", test.method, test.target)
		}
		for _, record := range records {
			if got := record.Header.Get("Via"); got != test.want {
				t.Errorf("%s %s: Via is %q, want %q", test.method, test.target, got, test.want)
			}
			if got := record.Header.Get("CDN-Loop"); got != strings.ReplaceAll(test.want, "1.1 ", "") {
				t.Errorf("%s %s: CDN-Loop is %q", test.method, test.target, got)
			}
		}
	}
}

// An upstream's 508 is passed on, so that the client at which the loop began learns
// of it. A cached tag is served meanwhile.
func TestLoopElsewhereIsPassedOn(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) { s.ServeStaleOn = []upstream.Class{upstream.ClassUnavailable} })
	r.AddImage("app", "v1", []byte("a layer"))
	wantStatus(t, m.do("GET", "/v2/up.example/app/manifests/v1"), 200)
	r.Fault(upstreamtest.Any, upstreamtest.Status(508, `{"errors":[{"code":"LOOP","message":"the upstream of docker.io leads back to this mirror"}]}`))
	wantStatus(t, m.do("GET", "/v2/up.example/app/manifests/v1"), 200)
	for _, target := range []string{"manifests/v2", "blobs/" + sha256Dig} {
		r.ResetRequests()
		wantError(t, m.do("GET", "/v2/up.example/app/"+target), 508, "LOOP")
		if asked := r.Requests(); len(asked) > 1 {
			t.Errorf("%s: the upstream was asked %q", target, asked)
		}
	}
}

// Every answer names the mirror, so that another one before it knows.
func TestAnswersNameTheMirror(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	for _, target := range []string{"/v2/", "/v2/up.example/app/manifests/v1", "/v2/up.example/app/manifests/missing", "/v2/elsewhere/app/manifests/v1"} {
		for _, method := range []string{"GET", "HEAD", "PUT"} {
			if got := m.do(method, target).Header().Get("Via"); got != "1.1 weir-me" {
				t.Errorf("%s %s: Via is %q", method, target, got)
			}
		}
	}
}
