package upstream_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Authorization goes to the upstream's own API only: a signed URL on the same host
// is refused with one.
func TestSignedURLOnTheSameHost(t *testing.T) {
	bearer := upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"})
	for name, test := range map[string]struct {
		option      upstreamtest.Option
		credentials bool
	}{
		"basic":             {upstreamtest.WithBasic("user", "hunter2"), true},
		"bearer":            {bearer, true},
		"bearer, anonymous": {upstreamtest.WithBearer(upstreamtest.Bearer{}), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, test.option, upstreamtest.WithCDN(upstreamtest.CDN{OnRegistry: true}))
			dgst := r.AddBlob("repo", []byte("layer"))
			var options []func(*upstream.Options)
			if test.credentials {
				options = append(options, withCredentials)
			}
			c := newClient(t, r, options...)
			for range 2 {
				b, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
				if got := readBody(t, b, err); string(got) != "layer" {
					t.Errorf("got %q", got)
				}
			}
			blobs, signed := "GET /v2/repo/blobs/"+dgst.String(), "GET /cdn/repo/"+dgst.String()+" 200"
			if diff := cmp.Diff([]string{blobs + " 401", blobs + " 307", blobs + " 307"}, r.Requests()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{signed, signed}, r.CDNRequests()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Only paths below /v2/ of the upstream's own origin get credentials.
func TestAuthorizationByTarget(t *testing.T) {
	for path, want := range map[string]bool{
		"/v2/other/manifests/latest": true,
		"/v2/":                       true,
		"/v2":                        true,
		"/":                          false,
		"/bucket/object?X-Amz=1":     false,
		"/v2x/object":                false,
		"/V2/object":                 false,
		"/api/v2/object":             false,
		"/v2/../bucket/object":       false,
		"/v2/%2e%2e/bucket/object":   false,
	} {
		t.Run(path, func(t *testing.T) {
			r := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"))
			r.AddImage("repo", "latest", []byte("layer"))
			c := newClient(t, r, withCredentials)
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest"))) // it knows the challenge now
			r.ResetRequests()
			r.Fault(upstreamtest.Path("/repo/manifests/"), upstreamtest.Status(307, ""), upstreamtest.Header("Location", r.URL.String()+path))
			c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			sent := r.Authorizations()
			if len(sent) != 2 || sent[0] == "" || (sent[1] != "") != want {
				t.Errorf("Authorization was sent to %v: %q, want %v for the redirect", r.Requests(), sent, want)
			}
		})
	}
}

// The answer of a storage service is not the registry's word about the content. One
// with a registry's error code is that of another registry.
func TestAnswersBehindARedirect(t *testing.T) {
	coded := func(code string) string { return `{"errors":[{"code":"` + code + `","message":"m"}]}` }
	const s3 = `<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>`
	for name, test := range map[string]struct {
		status int
		body   string
		want   error
		named  bool // the error names the host behind the redirect
	}{
		"400":                    {400, "", upstream.ErrUnavailable, true},
		"401":                    {401, "", upstream.ErrUnavailable, true},
		"403, expired":           {403, s3, upstream.ErrUnavailable, true},
		"403, a web filter":      {403, "<html>blocked</html>", upstream.ErrUnavailable, true},
		"403, plain text":        {403, "signature expired", upstream.ErrUnavailable, true},
		"404, NoSuchKey":         {404, s3, upstream.ErrUnavailable, true},
		"404, JSON of no code":   {404, `{"error":{"code":404}}`, upstream.ErrUnavailable, true},
		"410":                    {410, "", upstream.ErrUnavailable, true},
		"500":                    {500, "", upstream.ErrUnavailable, true},
		"404 of a registry":      {404, coded("BLOB_UNKNOWN"), upstream.ErrNotFound, false},
		"401 of a registry":      {401, coded("UNAUTHORIZED"), upstream.ErrDenied, false},
		"403 of a registry":      {403, coded("DENIED"), upstream.ErrDenied, false},
		"429 is one wherever it": {429, "", upstream.ErrRateLimited, true},
	} {
		for _, onRegistry := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithCDN(upstreamtest.CDN{OnRegistry: onRegistry}))
				dgst := r.AddBlob("repo", []byte("layer"))
				c := newClient(t, r, withCredentials)
				r.Fault(upstreamtest.CDNBlobs, upstreamtest.Status(test.status, test.body))
				_, err := c.Blob(t.Context(), "repo", dgst, 0, -1)
				e := wantError(t, err, test.want)
				host := r.Host
				if !onRegistry {
					host = r.CDNHost()
				}
				if got := strings.Contains(e.Error(), "the answer comes from "+host); got != test.named || e.Status != test.status {
					t.Errorf("got %v, which names the host: %v", err, got)
				}
				if len(r.CDNRequests()) != 1 || len(r.Requests()) != 2 {
					t.Errorf("requests are %q and %q", r.Requests(), r.CDNRequests())
				}
			})
		}
	}
}

// A second registry behind a redirect answers for itself.
func TestSecondRegistryBehindARedirect(t *testing.T) {
	second := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	first := upstreamtest.New(t, upstreamtest.WithRedirect(second))
	second.AddImage("repo", "latest", []byte("layer"))
	c := newClient(t, first)
	must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
	_, err := c.Manifest(t.Context(), "repo", oci.ByTag("missing"))
	wantError(t, err, upstream.ErrNotFound)
	if _, err = c.Head(t.Context(), "repo", oci.ByTag("missing")); !errors.Is(err, upstream.ErrNotFound) {
		t.Errorf("HEAD: %v", err)
	}
	second.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusNotFound, "default backend - 404"))
	_, err = c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
	wantError(t, err, upstream.ErrUnavailable)
}
