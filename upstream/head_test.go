package upstream_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// expectRequests checks the requests to a registry since the last check.
func expectRequests(t *testing.T, r *upstreamtest.Registry, want ...string) {
	t.Helper()
	if got := r.Requests(); !slices.Equal(got, want) {
		t.Errorf("requests to %s are\n%s\nwant\n%s", r.Host, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r.ResetRequests()
}

func TestHead(t *testing.T) {
	r := upstreamtest.New(t)
	c := newClient(t, r)
	image := r.AddImage("repo", "latest", []byte("layer"))
	for _, ref := range []oci.Reference{oci.ByTag("latest"), oci.ByDigest(image.Digest)} {
		m := must[*oci.Manifest](t)(c.Head(t.Context(), "repo", ref))
		if diff := cmp.Diff(image, m.Descriptor); diff != "" || m.Body != nil || m.Upstream != r.Host {
			t.Errorf("%s: %+v %s", ref, m, diff)
		}
	}
	r.Fault(upstreamtest.Manifests, upstreamtest.Header("Content-Type", ""), upstreamtest.Chunked()).Times(1)
	m := must[*oci.Manifest](t)(c.Head(t.Context(), "repo", oci.ByTag("latest")))
	if diff := cmp.Diff(ocispec.Descriptor{Digest: image.Digest, Size: -1}, m.Descriptor); diff != "" {
		t.Errorf("although the headers say little: %s", diff)
	}
	for _, header := range []string{"", "sha256:../../x", digest.FromString("other").String()} {
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("Docker-Content-Digest", header)).Times(1)
		m := must[*oci.Manifest](t)(c.Head(t.Context(), "repo", oci.ByDigest(image.Digest)))
		if diff := cmp.Diff(image, m.Descriptor); diff != "" {
			t.Errorf("by digest with header %q: %s", header, diff)
		}
	}
}

// uselessHeads are the ways in which registries and proxies fail a HEAD although
// they answer the GET, with the number of tries and the status of each.
var uselessHeads = map[string]struct {
	effect upstreamtest.Effect
	tries  int
	status int
}{
	"400":                {upstreamtest.Status(400, ""), 1, 400},
	"401":                {upstreamtest.Status(401, ""), 1, 401},
	"403":                {upstreamtest.Status(403, ""), 1, 403},
	"404":                {upstreamtest.Status(404, ""), 1, 404},
	"405":                {upstreamtest.Status(405, ""), 1, 405},
	"406":                {upstreamtest.Status(406, ""), 1, 406},
	"410":                {upstreamtest.Status(410, ""), 1, 410},
	"418":                {upstreamtest.Status(418, ""), 1, 418},
	"500":                {upstreamtest.Status(500, ""), 1, 500},
	"501":                {upstreamtest.Status(501, ""), 1, 501},
	"502":                {upstreamtest.Status(502, ""), 3, 502},
	"503":                {upstreamtest.Status(503, ""), 3, 503},
	"204":                {upstreamtest.Status(204, ""), 1, 204},
	"broken connection":  {upstreamtest.Drop(), 3, 0},
	"redirect nowhere":   {upstreamtest.Status(302, ""), 1, 302},
	"a page for a login": {upstreamtest.Header("Content-Type", "text/html; charset=utf-8"), 1, 200},
}

// TestUselessHead has one GET decide about a manifest. The registry's HEAD is then
// not tried again for a while, even after the fault is over.
func TestUselessHead(t *testing.T) {
	heads := map[string]struct {
		effect upstreamtest.Effect
		tries  int
		status int
	}{
		"a part":           {upstreamtest.Status(206, ""), 1, 206},
		"no digest":        {upstreamtest.OmitDigest(), 1, 200},
		"malformed digest": {upstreamtest.Header("Docker-Content-Digest", "sha256:../../x"), 1, 200},
		"plain text":       {upstreamtest.Header("Content-Type", "text/plain"), 1, 200},
		"octets":           {upstreamtest.Header("Content-Type", "application/octet-stream"), 1, 200},
		"json":             {upstreamtest.Header("Content-Type", "application/json"), 1, 200},
	}
	for name, head := range uselessHeads {
		heads[name] = head
	}
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				image := r.AddImage("repo", "latest", []byte("layer"))
				c := newClient(t, r, on(n))
				fault := r.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), head.effect)
				ask := func(body bool) {
					t.Helper()
					m := must[*oci.Manifest](t)(c.Head(t.Context(), "repo", oci.ByTag("latest")))
					if diff := cmp.Diff(image, m.Descriptor); diff != "" || (m.Body != nil) != body {
						t.Errorf("%d bytes, %s", len(m.Body), diff)
					}
				}
				headed, got := fmt.Sprintf("HEAD /v2/repo/manifests/latest %d", head.status), "GET /v2/repo/manifests/latest 200"
				ask(true)
				expectRequests(t, r, append(slices.Repeat([]string{headed}, head.tries), got)...)
				fault.Remove()
				time.Sleep(10*time.Minute - time.Second)
				ask(true)
				expectRequests(t, r, got)
				time.Sleep(time.Second)
				ask(false)
				expectRequests(t, r, "HEAD /v2/repo/manifests/latest 200")
			})
		})
	}
}

// TestUselessHeadOfBlob is TestUselessHead for blobs, whose first byte decides.
func TestUselessHeadOfBlob(t *testing.T) {
	heads := map[string]struct {
		effect upstreamtest.Effect
		tries  int
		status int
	}{
		"no length": {upstreamtest.Chunked(), 1, 200},
		"a part":    {upstreamtest.Status(206, ""), 1, 206},
		"length 0":  {upstreamtest.Header("Content-Length", "0"), 1, 200},
	}
	for name, head := range uselessHeads {
		heads[name] = head
	}
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				dgst := r.AddBlob("repo", blob)
				c := newClient(t, r, on(n))
				fault := r.Fault(upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method("HEAD")), head.effect)
				path := "/v2/repo/blobs/" + dgst.String()
				ask := func(want ...string) {
					t.Helper()
					desc, err := c.StatBlob(t.Context(), "repo", dgst)
					if err != nil || desc.Size != blobSize || desc.Digest != dgst {
						t.Errorf("got %v, %v", desc, err)
					}
					expectRequests(t, r, want...)
				}
				headed, got := fmt.Sprintf("HEAD %s %d", path, head.status), "GET "+path+" bytes=0-0 206"
				ask(append(slices.Repeat([]string{headed}, head.tries), got)...)
				fault.Remove()
				time.Sleep(10*time.Minute - time.Second)
				ask(got)
				time.Sleep(time.Second)
				ask("HEAD " + path + " 200")
			})
		})
	}
}

// Only HEADs are redirected, to hosts that cannot answer. The GET decides.
func TestHeadRedirectedNowhere(t *testing.T) {
	for name, location := range map[string]string{
		"a dead host":    "http://127.0.0.1:1/login",
		"an unknown one": "http://unknown.invalid/",
		"itself":         "",
		"no http":        "ftp://127.0.0.1/",
		"a missing page": "/login",
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			image := r.AddImage("repo", "latest", []byte("layer"))
			layer := digest.FromString("layer")
			c := newClient(t, r)
			effects := []upstreamtest.Effect{upstreamtest.Status(307, "")}
			for _, path := range []string{"/v2/repo/manifests/latest", "/v2/repo/blobs/" + layer.String()} {
				to := location
				if to == "" {
					to = path
				}
				r.Fault(upstreamtest.All(upstreamtest.Method("HEAD"), upstreamtest.Path(path)), append(effects, upstreamtest.Header("Location", to))...)
			}
			if m := must[*oci.Manifest](t)(c.Head(t.Context(), "repo", oci.ByTag("latest"))); m.Descriptor.Digest != image.Digest {
				t.Errorf("the manifest is %s", m.Descriptor.Digest)
			}
			if desc, err := c.StatBlob(t.Context(), "repo", layer); err != nil || desc.Size != 5 {
				t.Errorf("the blob: %v, %v", desc, err)
			}
		})
	}
}

// A page for browsers is no blob, whatever the method.
func TestStatBlobOfAPage(t *testing.T) {
	r := upstreamtest.New(t)
	dgst := r.AddBlob("repo", blob)
	c := newClient(t, r)
	for _, contentType := range []string{"text/html", "Text/HTML; charset=UTF-8", "text/html;"} {
		f := r.Fault(upstreamtest.Any, upstreamtest.Status(200, "<html>log in</html>"), upstreamtest.Header("Content-Type", contentType))
		_, err := c.StatBlob(t.Context(), "repo", dgst)
		if e := wantError(t, err, upstream.ErrUnavailable); !e.Foreign() {
			t.Errorf("%s: %v", contentType, err)
		}
		f.Remove()
	}
}

func TestStatBlob(t *testing.T) {
	r := upstreamtest.New(t)
	c := newClient(t, r)
	empty := r.AddBlob("repo", nil)
	if desc, err := c.StatBlob(t.Context(), "repo", empty); err != nil || desc.Size != 0 {
		t.Errorf("got %v, %v for the empty blob", desc, err)
	}
	r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Status(404, "")).Times(1)
	if desc, err := c.StatBlob(t.Context(), "repo", empty); err != nil || desc.Size != 0 {
		t.Errorf("got %v, %v for the empty blob without HEAD", desc, err)
	}
	r.ResetRequests()
	dgst := r.AddBlob("repo", blob)
	whole := r.Fault(upstreamtest.Any, upstreamtest.Chunked())
	if desc, err := c.StatBlob(t.Context(), "repo", dgst); err != nil || desc.Size != blobSize {
		t.Errorf("got %v, %v without any length", desc, err)
	}
	whole.Remove()
	_, err := c.StatBlob(t.Context(), "repo", digest.FromString("absent"))
	wantError(t, err, upstream.ErrNotFound)
}

// TestHeadWithoutAnswer has failures of a HEAD that a GET would only repeat.
func TestHeadWithoutAnswer(t *testing.T) {
	head := upstreamtest.Method("HEAD")
	for name, test := range map[string]struct {
		options  []upstreamtest.Option
		fault    func(*upstreamtest.Registry)
		want     error
		requests []string // of each question
	}{
		"rate limited": {
			fault: func(r *upstreamtest.Registry) { r.Fault(head, upstreamtest.Status(429, "")) },
			want:  upstream.ErrRateLimited, requests: []string{" 429"},
		},
		"no connection": {
			fault: func(r *upstreamtest.Registry) { r.Close() },
			want:  upstream.ErrUnavailable,
		},
		"a token service that refuses": {
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})},
			fault:   func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Tokens, upstreamtest.Status(403, "")) },
			want:    upstream.ErrDenied, requests: []string{" 401"},
		},
		"silence": {
			fault: func(r *upstreamtest.Registry) { r.Fault(head, upstreamtest.Hold(upstreamtest.NewGate())) },
			want:  upstream.ErrUnavailable, requests: []string{" 0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(test.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				r.AddImage("repo", "latest", []byte("layer"))
				dgst := r.AddBlob("repo", blob)
				for _, path := range []string{"/v2/repo/manifests/latest", "/v2/repo/blobs/" + dgst.String()} {
					c := newClient(t, r, on(n))
					test.fault(r)
					var err error
					if strings.Contains(path, "/blobs/") {
						_, err = c.StatBlob(t.Context(), "repo", dgst)
					} else {
						_, err = c.Head(t.Context(), "repo", oci.ByTag("latest"))
					}
					wantError(t, err, test.want)
					var want []string
					for _, request := range test.requests {
						want = append(want, "HEAD "+path+request)
					}
					expectRequests(t, r, want...)
				}
			})
		})
	}
}

// A HEAD that never ends costs one request its time limit. The next question is a
// GET.
func TestSilentHead(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.AddImage("repo", "latest", []byte("layer"))
		c := newClient(t, r, on(n))
		r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Hold(upstreamtest.NewGate()))
		start := time.Now()
		_, err := c.Head(t.Context(), "repo", oci.ByTag("latest"))
		if e := wantError(t, err, upstream.ErrUnavailable); !e.Timeout() || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		r.ResetRequests()
		must[*oci.Manifest](t)(c.Head(t.Context(), "repo", oci.ByTag("latest")))
		expectRequests(t, r, "GET /v2/repo/manifests/latest 200")
	})
}

// A GET that agrees with the HEAD says nothing against HEADs.
func TestHeadThatIsRight(t *testing.T) {
	for status, want := range map[int]error{404: upstream.ErrNotFound, 403: upstream.ErrDenied, 500: upstream.ErrUnavailable} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			r := upstreamtest.New(t)
			dgst := r.AddBlob("repo", blob)
			r.Fault(upstreamtest.Any, upstreamtest.Status(status, ""))
			c := newClient(t, r)
			for range 2 {
				_, err := c.Head(t.Context(), "repo", oci.ByTag("latest"))
				wantError(t, err, want)
				expectRequests(t, r, fmt.Sprintf("HEAD /v2/repo/manifests/latest %d", status), fmt.Sprintf("GET /v2/repo/manifests/latest %d", status))
				_, err = c.StatBlob(t.Context(), "repo", dgst)
				wantError(t, err, want)
				expectRequests(t, r, fmt.Sprintf("HEAD /v2/repo/blobs/%s %d", dgst, status), fmt.Sprintf("GET /v2/repo/blobs/%s bytes=0-0 %d", dgst, status))
			}
		})
	}
}

// A digest that a HEAD named and that is not there makes the next question a GET.
func TestHeadNamesMissingDigest(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Effect{
		"not found":         upstreamtest.Status(404, ""),
		"denied":            upstreamtest.Status(403, ""),
		"no such operation": upstreamtest.Status(501, ""),
		"another manifest":  upstreamtest.Corrupt(1),
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			image := r.AddImage("repo", "latest", []byte("layer"))
			other := r.AddImage("repo", "other", []byte("another"))
			r.Fault(upstreamtest.Path(image.Digest.String()), fault)
			c := newClient(t, r)
			ask := func(ref oci.Reference) error {
				_, err := c.Head(t.Context(), "repo", ref)
				return err
			}
			// A digest that no HEAD named may be missing, without any consequence.
			if _, err := c.Manifest(t.Context(), "repo", oci.ByDigest(image.Digest)); err == nil {
				t.Fatal("it is there")
			}
			if err := errors.Join(ask(oci.ByTag("latest")), ask(oci.ByTag("other"))); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Manifest(t.Context(), "repo", oci.ByDigest(image.Digest)); err == nil {
				t.Fatal("it is there")
			}
			r.ResetRequests()
			if err := ask(oci.ByTag("other")); err != nil {
				t.Fatal(err)
			}
			expectRequests(t, r, "GET /v2/repo/manifests/other 200")
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByDigest(other.Digest)))
		})
	}
}

// The word of a member with a useless HEAD counts before that of a later member,
// which may lag behind.
func TestChainHead(t *testing.T) {
	first, second := upstreamtest.New(t), upstreamtest.New(t)
	current := first.AddImage("repo", "latest", []byte("new"))
	old := second.AddImage("repo", "latest", []byte("old"))
	lagging := second.AddImage("repo", "only", []byte("only"))
	first.Fault(upstreamtest.Method("HEAD"), upstreamtest.Status(404, ""))
	chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first), newClient(t, second))
	ask := func(tag string, want ocispec.Descriptor) {
		t.Helper()
		m := must[*oci.Manifest](t)(chain.Head(t.Context(), "repo", oci.ByTag(tag)))
		if m.Descriptor.Digest != want.Digest {
			t.Errorf("%s names %s, and not %s", tag, m.Descriptor.Digest, want.Digest)
		}
	}
	// The first member is asked both ways before the second one is asked at all.
	ask("only", lagging)
	expectRequests(t, first, "HEAD /v2/repo/manifests/only 404", "GET /v2/repo/manifests/only 404")
	expectRequests(t, second, "HEAD /v2/repo/manifests/only 200")
	ask("latest", current)
	expectRequests(t, first, "HEAD /v2/repo/manifests/latest 404", "GET /v2/repo/manifests/latest 200")
	expectRequests(t, second)
	first.Untag("repo", "latest")
	ask("latest", old)
	expectRequests(t, first, "GET /v2/repo/manifests/latest 404")
	expectRequests(t, second, "HEAD /v2/repo/manifests/latest 200")
}

// A HEAD that has come back to its sender is repeated by no GET, which would come back, too.
func TestHeadInALoop(t *testing.T) {
	for name, question := range map[string]func(*upstream.Client) error{
		"manifest": func(c *upstream.Client) error {
			_, err := c.Head(t.Context(), "repo", oci.ByTag("latest"))
			return err
		},
		"blob": func(c *upstream.Client) error {
			_, err := c.StatBlob(t.Context(), "repo", digest.FromString("layer"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			c := newClient(t, r)
			r.AddImage("repo", "latest", []byte("layer"))
			r.Fault(upstreamtest.Any, upstreamtest.Status(http.StatusLoopDetected, ""))
			failed, ok := errors.AsType[*upstream.Error](question(c))
			if !ok || !failed.Loop() {
				t.Errorf("got %v", failed)
			}
			if requests := r.Requests(); len(requests) != 1 {
				t.Errorf("requests: %s", strings.Join(requests, ", "))
			}
		})
	}
}
