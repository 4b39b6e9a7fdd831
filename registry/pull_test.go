package registry_test

import (
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const immutable = "public, max-age=31536000, immutable"

func TestPing(t *testing.T) {
	_, m := pair(t)
	for _, path := range []string{"/v2", "/v2/"} {
		w := m.do("GET", path)
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(), "Content-Type", "application/json")
		if w.Body.String() != "{}" {
			t.Errorf("body %q", w.Body)
		}
	}
}

func TestManifest(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	byTag, byDigest := "/v2/up.example/app/manifests/v1", "/v2/up.example/app/manifests/"+image.Digest.String()
	var body string
	for _, test := range []struct{ method, path, cacheStatus, cacheControl string }{
		{"HEAD", byTag, "weir; fwd=uri-miss", "no-cache"},
		{"HEAD", byDigest, "weir; fwd=uri-miss", immutable},
		{"GET", byTag, "weir; fwd=uri-miss; stored", "no-cache"},
		{"GET", byTag, "weir; hit; detail=revalidated", "no-cache"},
		{"HEAD", byTag, "weir; hit; detail=revalidated", "no-cache"},
		{"GET", byDigest, "weir; hit", immutable},
		{"HEAD", byDigest, "weir; hit", immutable},
	} {
		w := m.do(test.method, test.path)
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(),
			"Content-Type", ocispec.MediaTypeImageManifest,
			"Content-Length", strconv.FormatInt(image.Size, 10),
			"Docker-Content-Digest", image.Digest.String(),
			"ETag", `"`+image.Digest.String()+`"`,
			"Accept-Ranges", "bytes",
			"Cache-Control", test.cacheControl,
			"Cache-Status", test.cacheStatus,
			"Warning", "", "OCI-Namespace", "", "Content-Encoding", "")
		if test.method == "HEAD" {
			continue
		}
		if body = w.Body.String(); digest.FromString(body) != image.Digest {
			t.Errorf("%s: body %q", test.path, body)
		}
	}
	// A tag that moved is told as such.
	r.AddImage("app", "v1", []byte("another layer"))
	w := m.do("GET", byTag)
	wantStatus(t, w, 200)
	wantHeader(t, w.Header(), "Cache-Status", "weir; fwd=stale", "Cache-Control", "no-cache")
}

// TestManifestRange has a client that sends a Range with each GET, cold and
// warm.
func TestManifestRange(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	for range 2 {
		w := m.do("GET", "/v2/up.example/app/manifests/"+image.Digest.String(), "Range", "bytes=0-")
		wantStatus(t, w, 206)
		size := strconv.FormatInt(image.Size, 10)
		wantHeader(t, w.Header(), "Content-Range", "bytes 0-"+strconv.FormatInt(image.Size-1, 10)+"/"+size, "Content-Length", size)
		if digest.FromBytes(w.Body.Bytes()) != image.Digest {
			t.Errorf("body %q", w.Body)
		}
	}
}

func TestNotModified(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	layer := digest.FromString("a layer")
	for _, test := range []struct{ path, cacheControl string }{
		{"manifests/v1", "no-cache"},
		{"manifests/" + image.Digest.String(), immutable},
		{"blobs/" + layer.String(), immutable},
	} {
		dgst := image.Digest
		if strings.HasPrefix(test.path, "blobs") {
			dgst = layer
		}
		etag := `"` + dgst.String() + `"`
		for _, method := range []string{"GET", "HEAD"} {
			for _, condition := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
				w := m.do(method, "/v2/up.example/app/"+test.path, "If-None-Match", condition)
				wantStatus(t, w, 304)
				wantHeader(t, w.Header(), "ETag", etag, "Docker-Content-Digest", dgst.String(), "Cache-Control", test.cacheControl)
				if w.Header().Get("Cache-Status") == "" || w.Body.Len() > 0 {
					t.Errorf("Cache-Status %q, body %q", w.Header().Get("Cache-Status"), w.Body)
				}
				m.settle()
			}
			wantStatus(t, m.do(method, "/v2/up.example/app/"+test.path, "If-None-Match", `"sha256:0"`), 200)
		}
	}
}

func TestBlob(t *testing.T) {
	r, m := pair(t)
	dgst := r.AddBlob("app", []byte("0123456789"))
	path := "/v2/up.example/app/blobs/" + dgst.String()
	for _, test := range []struct{ method, cacheStatus string }{
		{"HEAD", "weir; fwd=uri-miss"},
		{"GET", "weir; fwd=uri-miss; stored"},
		{"HEAD", "weir; hit"},
		{"GET", "weir; hit"},
	} {
		w := m.do(test.method, path, "Accept-Encoding", "zstd, gzip")
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(),
			"Content-Type", "application/octet-stream", "Content-Length", "10", "Accept-Ranges", "bytes",
			"Docker-Content-Digest", dgst.String(), "ETag", `"`+dgst.String()+`"`,
			"Cache-Control", immutable, "Cache-Status", test.cacheStatus, "Content-Encoding", "")
		if test.method == "GET" && w.Body.String() != "0123456789" {
			t.Errorf("body %q", w.Body)
		}
		m.settle()
	}
	// A HEAD knows no ranges (RFC 9110 section 14.2).
	w := m.do("HEAD", path, "Range", "bytes=2-3")
	wantStatus(t, w, 200)
	wantHeader(t, w.Header(), "Content-Length", "10", "Content-Range", "")
}

func TestBlobOfUnknownSize(t *testing.T) {
	r, m := pair(t)
	dgst := r.AddRandomBlob("app", 100_000, 1)
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Blobs, upstreamtest.Chunked(), upstreamtest.IgnoreRange(), upstreamtest.StallAfter(50_000, gate))
	path := "/v2/up.example/app/blobs/" + dgst.String()
	w := m.do("HEAD", path)
	wantStatus(t, w, 200)
	wantHeader(t, w.Header(), "Content-Length", "", "Docker-Content-Digest", dgst.String())
	resp, err := client(t, false).Get(m.server().URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	gate.Open()
	if got, err := digest.FromReader(resp.Body); err != nil || got != dgst || resp.ContentLength != -1 {
		t.Errorf("%s with a length of %d, %v", got, resp.ContentLength, err)
	}
	wantHeader(t, resp.Header, "Cache-Status", "weir; fwd=uri-miss; stored")
}

func TestCollapsed(t *testing.T) {
	r, m := pair(t)
	dgst := r.AddRandomBlob("app", 200_000, 1)
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(150_000, gate))
	url := m.server().URL + "/v2/up.example/app/blobs/" + dgst.String()
	for _, want := range []string{"weir; fwd=uri-miss; stored", "weir; fwd=uri-miss; collapsed"} {
		resp, err := client(t, false).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		wantHeader(t, resp.Header, "Cache-Status", want)
		defer io.Copy(io.Discard, resp.Body)
	}
	gate.Open()
}

func TestStale(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) { s.ServeStaleOn = []upstream.Class{upstream.ClassUnavailable} })
	image := r.AddImage("app", "v1", []byte("a layer"))
	m.do("GET", "/v2/up.example/app/manifests/v1")
	r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
	for _, method := range []string{"GET", "HEAD"} {
		w := m.do(method, "/v2/up.example/app/manifests/v1")
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(), "Cache-Status", "weir; hit; detail=stale", "Docker-Content-Digest", image.Digest.String())
		if warning := w.Header().Get("Warning"); !strings.HasPrefix(warning, `299 - "`+r.Host+" is unavailable; ") || !strings.HasSuffix(warning, `ago"`) {
			t.Errorf("Warning %q", warning)
		}
		w = m.do(method, "/v2/up.example/app/manifests/v1", "If-None-Match", `"`+image.Digest.String()+`"`)
		wantStatus(t, w, 304)
		if w.Header().Get("Warning") == "" {
			t.Error("a stale 304 without its warning")
		}
	}
	w := m.do("GET", "/v2/up.example/app/tags/list")
	wantStatus(t, w, 200)
	if w.Header().Get("Warning") == "" || w.Body.String() != `{"name":"up.example/app","tags":["v1"]}` {
		t.Errorf("Warning %q, %s", w.Header().Get("Warning"), w.Body)
	}
}

func TestOCINamespace(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	for _, test := range []struct{ path, want string }{
		{"/v2/app/manifests/v1?ns=up.example", "up.example"},
		{"/v2/app/manifests/v1?ns=UP.example", "UP.example"},
		{"/v2/up.example/app/manifests/v1?ns=up.example", "up.example"},
		{"/v2/up.example/app/manifests/v1?ns=elsewhere.example", ""},
		{"/v2/up.example/app/manifests/v1", ""},
	} {
		w := m.do("GET", test.path)
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(), "OCI-Namespace", test.want)
	}
	w := m.do("GET", "/v2/app/manifests/missing?ns=up.example")
	wantStatus(t, w, 404)
	wantHeader(t, w.Header(), "OCI-Namespace", "up.example")
}

// Paths beside the API are not found.
func TestOtherPaths(t *testing.T) {
	_, m := pair(t)
	for _, path := range []string{"/", "/v2x", "/ui", "/healthz"} {
		wantError(t, m.do("GET", path), 404, "NAME_UNKNOWN")
	}
}
