package registry_test

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// The answer with a small blob is that of http.ServeContent, whatever the client asks for.
func TestSmallContent(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	tag := `"` + image.Digest.String() + `"`
	path := "/v2/up.example/app/manifests/" + image.Digest.String()
	body := m.do("GET", path).Body.Bytes()
	if digest.FromBytes(body) != image.Digest {
		t.Fatalf("%q", body)
	}
	for name, header := range map[string][]string{
		"nothing":                     nil,
		"an empty range":              {"Range", ""},
		"a range":                     {"Range", "bytes=2-5"},
		"the end":                     {"Range", "bytes=-3"},
		"beyond the end":              {"Range", "bytes=99999-"},
		"a range of no grammar":       {"Range", "bytes=x"},
		"a range, and a date":         {"Range", "bytes=2-5", "If-Range", "Fri, 27 Nov 2026 00:00:00 GMT"},
		"a range of this content":     {"Range", "bytes=2-5", "If-Range", tag},
		"a range of another content":  {"Range", "bytes=2-5", "If-Range", `"other"`},
		"a condition without a range": {"If-Range", tag},
		"it has this content":         {"If-None-Match", `"other", ` + tag},
		"it has a weak tag":           {"If-None-Match", "W/" + tag},
		"it has something":            {"If-None-Match", "*"},
		"it has another content":      {"If-None-Match", `"other"`},
		"it wants this content":       {"If-Match", tag},
		"it wants another content":    {"If-Match", `"other"`},
		"a date":                      {"If-Modified-Since", "Fri, 27 Nov 2026 00:00:00 GMT"},
		"an early date":               {"If-Unmodified-Since", "Fri, 27 Nov 1970 00:00:00 GMT"},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			got := m.do(method, path, header...)
			want := httptest.NewRecorder()
			for _, name := range []string{"Content-Type", "Etag", "Docker-Content-Digest", "Cache-Control", "Cache-Status", "Docker-Distribution-Api-Version", "Via"} {
				if value := m.do("GET", path).Header().Get(name); value != "" {
					want.Header().Set(name, value)
				}
			}
			req := httptest.NewRequestWithContext(t.Context(), method, path, nil)
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			if method == "HEAD" {
				req.Header.Del("Range") // RFC 9110 section 14.2
			}
			http.ServeContent(want, req, "", time.Time{}, bytes.NewReader(body))
			if got.Code != want.Code || got.Body.String() != want.Body.String() || !maps.EqualFunc(got.Header(), want.Header(), slices.Equal) {
				t.Errorf("%s, %s: %d %q\n%v\nwant %d %q\n%v", method, name, got.Code, got.Body, got.Header(), want.Code, want.Body, want.Header())
			}
		}
	}
}

// The values of headers of two answers are not the same memory: bytes that are written behind the
// mirror into one of them, such as by middleware, must not show in the other.
func TestHeadersAreOwn(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	path := "/v2/up.example/app/manifests/" + image.Digest.String()
	first := m.do("GET", path).Header()
	before := first.Clone()
	for name := range first {
		first.Add(name, "more")
	}
	second := m.do("GET", path).Header()
	for name, values := range second {
		if len(values) != 1 || strings.Contains(values[0], "more") || name != "Cache-Status" && values[0] != before.Get(name) {
			t.Errorf("%s: %q", name, values)
		}
	}
}
