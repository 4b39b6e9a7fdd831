package upstream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const apiPath = "/artifactory/api/docker/hub"

// pathRecorder notes the requests to a server as "METHOD path", with " +auth" behind those
// that have an Authorization.
type pathRecorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *pathRecorder) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		entry := req.Method + " " + req.URL.Path
		if req.Header.Get("Authorization") != "" {
			entry += " +auth"
		}
		r.mu.Lock()
		r.seen = append(r.seen, entry)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

func (r *pathRecorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

// belowPath serves a registry below a path, and nothing else.
func belowPath(t *testing.T, r *upstreamtest.Registry) (*url.URL, *pathRecorder) {
	t.Helper()
	seen := new(pathRecorder)
	mux := http.NewServeMux()
	mux.Handle(apiPath+"/", http.StripPrefix(apiPath, &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(r.URL) }}))
	s := httptest.NewServer(seen.wrap(mux))
	t.Cleanup(s.Close)
	return must[*url.URL](t)(url.Parse(s.URL)), seen
}

func atPath(u *url.URL) func(*upstream.Options) {
	return func(o *upstream.Options) { o.URL, o.APIPath = u, apiPath }
}

// Every kind of request goes to the API below its path, with the login that the API
// asks for. The path of the URL itself goes before names.
func TestAPIBelowAPath(t *testing.T) {
	const v2 = apiPath + "/v2/"
	for name, login := range map[string]upstreamtest.Option{
		"basic":  upstreamtest.WithBasic("user", "hunter2"),
		"bearer": upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"}),
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, login)
			image := r.AddImage("team/app", "v1", []byte("layer")).Digest
			r.AddImage("team/app", "v2", []byte("another layer"))
			layer := digest.FromString("layer")
			front, seen := belowPath(t, r)
			front.Path = "/team"
			c := newClient(t, r, atPath(front), withCredentials)
			for _, ask := range []struct {
				want string
				do   func() error
			}{
				{"GET " + v2 + "team/app/manifests/v1", func() error { _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); return err }},
				{"HEAD " + v2 + "team/app/manifests/v1", func() error { _, err := c.Head(t.Context(), "app", oci.ByTag("v1")); return err }},
				{"GET " + v2 + "team/app/blobs/" + layer.String(), func() error { _, err := readAll(c.Blob(t.Context(), "app", layer, 0, -1)); return err }},
				{"HEAD " + v2 + "team/app/blobs/" + layer.String(), func() error { _, err := c.StatBlob(t.Context(), "app", layer); return err }},
				{"GET " + v2 + "team/app/referrers/" + image.String(), func() error { _, err := c.Referrers(t.Context(), "app", image, ""); return err }},
				{"GET " + v2 + "team/app/tags/list", func() error {
					page, err := c.Tags(t.Context(), "app", url.Values{"n": {"1"}})
					if err == nil && page.Next != nil {
						_, err = c.Tags(t.Context(), "app", page.Next)
					}
					return err
				}},
			} {
				if err := ask.do(); err != nil {
					t.Errorf("%s: %v", ask.want, err)
				}
				requests := seen.take()
				if !slices.Contains(requests, ask.want+" +auth") || slices.ContainsFunc(requests, func(s string) bool { return !strings.Contains(s, " "+v2) }) {
					t.Errorf("%s: %q", ask.want, requests)
				}
			}
			report := c.Probe(t.Context(), upstream.ProbeOptions{})
			if requests := seen.take(); report.Err != nil || !report.Accepted || !slices.Contains(requests, "GET "+v2) {
				t.Errorf("the probe asks %q: %+v", requests, report)
			}
		})
	}
}

// A root that alone challenges is that below the path, and a failure names it.
func TestRootBelowAPath(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithHiddenContent(404))
	r.AddImage("app", "v1", []byte("layer"))
	front, seen := belowPath(t, r)
	c := newClient(t, r, atPath(front), withCredentials)
	if _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); err != nil {
		t.Error(err)
	}
	const app = "GET " + apiPath + "/v2/app/manifests/v1"
	if diff := cmp.Diff([]string{app, "GET " + apiPath + "/v2/", app + " +auth"}, seen.take()); diff != "" {
		t.Error(diff)
	}
	r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
	if report := c.Probe(t.Context(), upstream.ProbeOptions{}); report.Err == nil || report.Err.Content() != apiPath+"/v2/" {
		t.Errorf("%+v", report.Err)
	}
}

// The credentials go to paths below the API's root only, wherever the registry
// redirects to on its own host.
func TestCredentialsBelowAPath(t *testing.T) {
	content := []byte("layer")
	dgst := digest.FromBytes(content)
	for target, want := range map[string]bool{
		apiPath + "/v2/app/blobs/x":                        true,
		apiPath + "/v2/app/../app/blobs/x":                 true,
		"/v2/app/blobs/x":                                  false,
		"/artifactory/api/docker/private/v2/app/blobs/x":   false,
		apiPath + "x/v2/app/blobs/x":                       false,
		apiPath + "/v20/app/blobs/x":                       false,
		apiPath + "/v2/../../private/v2/app/blobs/x":       false,
		apiPath + "/v2/%2e%2e/%2e%2e/private/v2/a/blobs/x": false,
		"/artifactory/api/docker/HUB/v2/app/blobs/x":       false,
		"/storage" + apiPath + "/v2/app/blobs/x":           false,
	} {
		var authorized bool
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _, auth := req.BasicAuth()
			switch {
			case req.URL.Path != apiPath+"/v2/app/blobs/"+dgst.String():
				authorized = auth
				w.Write(content)
			case !auth:
				w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
				w.WriteHeader(401)
			default:
				w.Header().Set("Location", target)
				w.WriteHeader(307)
			}
		}))
		c := newClient(t, upstreamtest.New(t), atPath(must[*url.URL](t)(url.Parse(s.URL))), withCredentials)
		if got, err := readAll(c.Blob(t.Context(), "app", dgst, 0, -1)); err != nil || string(got) != "layer" || authorized != want {
			t.Errorf("%s: %q, %v; the credentials came along: %t", target, got, err, authorized)
		}
		s.Close()
	}
}

// readAll reads a blob to its end.
func readAll(b oci.Blob, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}
