package upstream_test

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Credentials reach a registry whose content does not challenge: the root of its API
// is asked once for its challenge.
func TestHiddenContent(t *testing.T) {
	const root, app, other = "GET /v2/ ", "GET /v2/app/manifests/v1 ", "GET /v2/other/manifests/v1 "
	basic := upstreamtest.WithBasic("user", "hunter2")
	bearer := upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"})
	isRoot := func(r *http.Request) bool { return r.URL.Path == "/v2/" }
	for name, test := range map[string]struct {
		options   []upstreamtest.Option
		anonymous bool
		root      []upstreamtest.Effect
		want      error
		requests  []string // for app, twice, and then other
		tokens    int
	}{
		"basic, 404": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)},
			requests: []string{app + "404", root + "401", app + "200", app + "200", other + "200"},
		},
		"basic, 403": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(403)},
			requests: []string{app + "403", root + "401", app + "200", app + "200", other + "200"},
		},
		"basic, a bare 401": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(401)},
			requests: []string{app + "401", root + "401", app + "200", app + "200", other + "200"},
		},
		"bearer, 404": {
			options:  []upstreamtest.Option{bearer, upstreamtest.WithHiddenContent(404)},
			requests: []string{app + "404", root + "401", app + "200", app + "200", other + "200"}, tokens: 2,
		},
		"bearer, a bare 401": {
			options:  []upstreamtest.Option{bearer, upstreamtest.WithHiddenContent(401)},
			requests: []string{app + "401", root + "401", app + "200", app + "200", other + "200"}, tokens: 2,
		},
		"wrong password": {
			options:  []upstreamtest.Option{upstreamtest.WithBasic("user", "other"), upstreamtest.WithHiddenContent(404)},
			want:     upstream.ErrDenied,
			requests: []string{app + "404", root + "401", app + "401", app + "401", other + "401"},
		},
		"no credentials": {
			options: []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)}, anonymous: true,
			want:     upstream.ErrNotFound,
			requests: []string{app + "404", app + "404", other + "404"},
		},
		"no challenge anywhere": {
			options:  []upstreamtest.Option{upstreamtest.WithHiddenContent(403)},
			want:     upstream.ErrDenied,
			requests: []string{app + "403", root + "200", app + "403", other + "403"},
		},
		"a root that is missing": {
			options: []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)}, root: []upstreamtest.Effect{upstreamtest.Status(404, "")},
			want:     upstream.ErrNotFound,
			requests: []string{app + "404", root + "404", app + "404", other + "404"},
		},
		"a root that is broken is asked again": {
			options: []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)}, root: []upstreamtest.Effect{upstreamtest.Status(500, "")},
			want:     upstream.ErrNotFound,
			requests: []string{app + "404", root + "500", app + "404", root + "500", other + "404", root + "500"},
		},
		"a root that challenges with 403": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)},
			root:     []upstreamtest.Effect{upstreamtest.Status(403, ""), upstreamtest.Header("WWW-Authenticate", `Basic realm="x"`)},
			requests: []string{app + "404", root + "403", app + "200", app + "200", other + "200"},
		},
		"a root that challenges with 200": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)},
			root:     []upstreamtest.Effect{upstreamtest.Status(200, "{}"), upstreamtest.Header("WWW-Authenticate", `BASIC`)},
			requests: []string{app + "404", root + "200", app + "200", app + "200", other + "200"},
		},
		"a root that is elsewhere on the host": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)},
			root:     []upstreamtest.Effect{upstreamtest.Status(301, ""), upstreamtest.Header("Location", "/v2")},
			requests: []string{app + "404", root + "301", "GET /v2 401", app + "200", app + "200", other + "200"},
		},
		"a root that is on another host": {
			options:  []upstreamtest.Option{basic, upstreamtest.WithHiddenContent(404)},
			root:     []upstreamtest.Effect{upstreamtest.Status(302, ""), upstreamtest.Header("Location", "http://elsewhere.test/v2/")},
			want:     upstream.ErrNotFound,
			requests: []string{app + "404", root + "302", app + "404", other + "404"},
		},
		"a root with challenges of no use": {
			options:  []upstreamtest.Option{upstreamtest.WithHiddenContent(404)},
			root:     []upstreamtest.Effect{upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Negotiate, Bearer service="x"`)},
			want:     upstream.ErrNotFound,
			requests: []string{app + "404", root + "401", app + "404", other + "404"},
		},
		"content that challenges": {
			options:  []upstreamtest.Option{basic},
			requests: []string{app + "401", app + "200", app + "200", other + "401", other + "200"},
		},
		"content that is public": {
			requests: []string{app + "200", app + "200", other + "200"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(test.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				r.AddImage("app", "v1", []byte("layer"))
				r.AddImage("other", "v1", []byte("layer"))
				if test.root != nil {
					r.Fault(isRoot, test.root...)
				}
				options := []func(*upstream.Options){on(n)}
				if !test.anonymous {
					options = append(options, withCredentials)
				}
				c := newClient(t, r, options...)
				for _, repo := range []string{"app", "app", "other"} {
					if _, err := c.Manifest(t.Context(), repo, oci.ByTag("v1")); !errors.Is(err, test.want) {
						t.Errorf("%s: %v, want %v", repo, err, test.want)
					}
				}
				if diff := cmp.Diff(test.requests, r.Requests()); diff != "" {
					t.Error(diff)
				}
				if test.tokens > 0 && len(r.TokenRequests()) != test.tokens {
					t.Errorf("token requests are %q", r.TokenRequests())
				}
			})
		})
	}
}

// Blobs, HEADs, tags and referrers find the challenge as well.
func TestHiddenContentOfEachKind(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithHiddenContent(404))
	dgst := r.AddImage("app", "v1", []byte("layer")).Digest
	blob := r.AddBlob("app", []byte("blob"))
	for name, ask := range map[string]func(c *upstream.Client) error{
		"head": func(c *upstream.Client) error { _, err := c.Head(t.Context(), "app", oci.ByTag("v1")); return err },
		"blob": func(c *upstream.Client) error {
			b, err := c.Blob(t.Context(), "app", blob, 0, -1)
			closeBlob(b)
			return err
		},
		"stat":      func(c *upstream.Client) error { _, err := c.StatBlob(t.Context(), "app", blob); return err },
		"tags":      func(c *upstream.Client) error { _, err := c.Tags(t.Context(), "app", nil); return err },
		"referrers": func(c *upstream.Client) error { _, err := c.Referrers(t.Context(), "app", dgst, ""); return err },
	} {
		r.ResetRequests()
		if err := ask(newClient(t, r, withCredentials)); err != nil || len(r.Requests()) != 3 {
			t.Errorf("%s: %v after %q", name, err, r.Requests())
		}
	}
}

func closeBlob(b oci.Blob) {
	if b != nil {
		b.Close()
	}
}

// However many requests come at once, one asks the root, and a registry that gets a
// login is noticed.
func TestRootIsAskedOnce(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithHiddenContent(404))
		r.AddImage("app", "v1", []byte("layer"))
		fault := r.Fault(func(r *http.Request) bool { return r.URL.Path == "/v2/" }, upstreamtest.Status(200, "{}"))
		c := newClient(t, r, on(n), withCredentials)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); !errors.Is(err, upstream.ErrNotFound) {
					t.Errorf("without a challenge: %v", err)
				}
			})
		}
		all.Wait()
		if fault.Hits() != 1 {
			t.Errorf("the root was asked %d times", fault.Hits())
		}
		fault.Remove()
		time.Sleep(10 * time.Minute)
		for range 20 {
			all.Go(func() {
				if _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		asked := 0
		for _, request := range r.Requests() {
			if request == "GET /v2/ 401" {
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("the root was asked %d times for its challenge", asked)
		}
	})
}

// A root that is limited is left alone for as long as it asks, and then asked again.
func TestLimitedRoot(t *testing.T) {
	for name, effects := range map[string][]upstreamtest.Effect{
		"429": {upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30")},
		"403": {upstreamtest.Status(403, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), upstreamtest.Header("Retry-After", "30")},
		"503": {upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "30")},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithHiddenContent(404))
				r.AddImage("app", "v1", []byte("layer"))
				fault := r.Fault(func(r *http.Request) bool { return r.URL.Path == "/v2/" }, effects...)
				c := newClient(t, r, on(n), withCredentials)
				for range 5 {
					if _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); !errors.Is(err, upstream.ErrNotFound) {
						t.Errorf("without a challenge: %v", err)
					}
				}
				if fault.Hits() != 1 {
					t.Errorf("the root was asked %d times", fault.Hits())
				}
				fault.Remove()
				time.Sleep(30 * time.Second)
				must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
			})
		})
	}
}
