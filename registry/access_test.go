package registry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestAccessLog(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	layer := digest.FromString("a layer").String()
	m.do("GET", "/v2/app/manifests/v1?ns=up.example")
	m.do("HEAD", "/v2/up.example/app/manifests/"+image.Digest.String())
	m.do("GET", "/v2/up.example/app/blobs/"+layer)
	m.do("GET", "/v2/up.example/app/manifests/missing")
	m.do("PUT", "/v2/nowhere/app/manifests/v1")
	m.do("GET", "/v2/UP/manifests/v1")
	var got []map[string]any
	for _, line := range m.log.requests(t) {
		if line["duration"].(float64) < 0 || line["time"] == "" {
			t.Errorf("%v", line)
		}
		if err, ok := line["error"]; ok {
			line["error"] = err != ""
		}
		for _, key := range []string{"time", "duration", "msg"} {
			delete(line, key)
		}
		got = append(got, line)
	}
	const client = "192.0.2.1" // httptest's
	want := []map[string]any{
		{"level": "INFO", "operation": "manifest", "method": "GET", "repository": "up.example/app", "reference": "v1", "status": 200.0, "bytes": float64(image.Size), "cache": "miss", "client": client, "upstream": r.Host},
		{"level": "INFO", "operation": "manifest", "method": "HEAD", "repository": "up.example/app", "reference": image.Digest.String(), "status": 200.0, "bytes": 0.0, "cache": "hit", "client": client},
		{"level": "INFO", "operation": "blob", "method": "GET", "repository": "up.example/app", "reference": layer, "status": 200.0, "bytes": 7.0, "cache": "miss", "client": client, "upstream": r.Host},
		{"level": "INFO", "operation": "manifest", "method": "GET", "repository": "up.example/app", "reference": "missing", "status": 404.0, "cache": "none", "client": client, "error": true, "upstream": r.Host},
		{"level": "INFO", "operation": "write", "method": "PUT", "repository": "nowhere/app", "reference": "", "status": 404.0, "cache": "none", "client": client, "error": true},
		{"level": "INFO", "operation": "manifest", "method": "GET", "path": "/v2/UP/manifests/v1", "status": 400.0, "cache": "none", "client": client, "error": true},
	}
	for _, line := range got {
		if line["error"] != nil {
			delete(line, "bytes") // of a message
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The line of a request has the client's own words within bounds, in one line, and the
// client behind trusted proxies. The check of the API's version is for debugging.
func TestAccessLogOfClients(t *testing.T) {
	hostile := "\x1b[2J\u202e\n" + strings.Repeat("x", 1<<16)
	for name, c := range map[string]struct {
		method, path string
		header       http.Header
		want         map[string]any
	}{
		"a ping":                {"GET", "/v2/", nil, map[string]any{"level": "DEBUG", "operation": "ping", "client": "192.0.2.1"}},
		"a ping without slash":  {"HEAD", "/v2", nil, map[string]any{"level": "DEBUG", "operation": "ping"}},
		"tags":                  {"GET", "/v2/up.example/app/tags/list", nil, map[string]any{"operation": "tags"}},
		"referrers":             {"GET", "/v2/up.example/app/referrers/" + sha256Dig, nil, map[string]any{"operation": "referrers"}},
		"the catalog":           {"GET", "/v2/_catalog", nil, map[string]any{"level": "INFO", "operation": "catalog"}},
		"no operation":          {"GET", "/v2/app", nil, map[string]any{"operation": "other"}},
		"a user agent":          {"GET", "/v2/_catalog", http.Header{"User-Agent": {"containerd/v2.1.0"}}, map[string]any{"user_agent": "containerd/v2.1.0"}},
		"a hostile user agent":  {"GET", "/v2/_catalog", http.Header{"User-Agent": {hostile}}, map[string]any{"user_agent": `\x1b[2J\u202e\n` + strings.Repeat("x", 200-15) + "..."}},
		"a hostile path":        {"GET", "/v2/" + hostile, nil, map[string]any{"path": `/v2/\x1b[2J\u202e\n` + strings.Repeat("x", 300-19) + "..."}},
		"a long method":         {strings.Repeat("M", 1000), "/v2/_catalog", nil, map[string]any{"method": strings.Repeat("M", 16) + "..."}},
		"a proxy":               {"GET", "/v2/_catalog", http.Header{"X-Forwarded-For": {"198.51.100.7"}}, map[string]any{"client": "198.51.100.7", "peer": "192.0.2.1"}},
		"two headers, a forged": {"GET", "/v2/_catalog", http.Header{"X-Forwarded-For": {"1.1.1.1", "198.51.100.7"}}, map[string]any{"client": "198.51.100.7"}},
		"a hostile header":      {"GET", "/v2/_catalog", http.Header{"X-Forwarded-For": {hostile}}, map[string]any{"client": "192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := pair(t)
			r := httptest.NewRequestWithContext(t.Context(), c.method, "/", nil)
			r.URL.Path = c.path
			for key, values := range c.header {
				r.Header[key] = values
			}
			m.handler.ServeHTTP(httptest.NewRecorder(), r)
			lines := m.log.requests(t)
			if len(lines) != 1 {
				t.Fatalf("%d lines: %v", len(lines), lines)
			}
			for key, want := range c.want {
				if lines[0][key] != want {
					t.Errorf("%s is %q, want %q", key, lines[0][key], want)
				}
			}
			if _, behind := lines[0]["peer"]; behind != (lines[0]["client"] != "192.0.2.1") {
				t.Errorf("the peer is told if it is not the client: %v", lines[0])
			}
		})
	}
}

// TestMetrics lets clients send all sorts of names: none of them becomes the
// label of a metric.
func TestMetrics(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) { s.Default = true })
	r.AddImage("image-name", "tag-name", []byte("a layer"))
	layer := "image-name/blobs/" + digest.FromString("a layer").String()
	for _, path := range []string{
		"/v2/", "/v2/_catalog", "/v2/image-name/manifests/tag-name", "/v2/image-name/manifests/tag-name", "/v2/" + layer, "/v2/" + layer,
		"/v2/image-name/tags/list", "/v2/image-name/referrers/" + sha256Dig, "/v2/IMAGE-NAME/manifests/tag-name", "/v2/image-name/manifests/missing",
		"/v2/image-name", "/v2/image-name/manifests/tag-name?ns=image-name",
	} {
		m.do("GET", path)
		m.settle()
	}
	m.do("PUT", "/v2/image-name/manifests/tag-name")
	m.do("image-name", "/v2/image-name/manifests/tag-name")
	families, err := m.gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
				if strings.Contains(strings.ToLower(label.GetValue()), "name") {
					t.Errorf("%s has the label %s", family.GetName(), label)
				}
			}
			counts[family.GetName()+" "+strings.Join(labels, " ")] = metric.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{ // cache, namespace, operation, status
		"weir_requests_total miss up.example manifest 200":        1,
		"weir_requests_total revalidated up.example manifest 200": 1,
		"weir_requests_total none  manifest 404":                  1, // of a registry that is not mirrored
		"weir_requests_total none up.example manifest 404":        1,
		"weir_requests_total miss up.example blob 200":            1,
		"weir_requests_total hit up.example blob 200":             1,
		"weir_requests_total miss up.example tags 200":            1,
		"weir_requests_total miss up.example referrers 200":       1,
		"weir_requests_total none up.example other 401":           1,
		"weir_requests_total none  other 405":                     1,
		"weir_requests_total none  manifest 400":                  1,
		"weir_requests_total none  other 404":                     1,
		"weir_requests_total none  other 200":                     2,
		"weir_served_bytes_total hit up.example":                  7,
	} {
		if counts[name] != want {
			t.Errorf("%s is %v, want %v", name, counts[name], want)
		}
	}
}

// sink is a ResponseWriter that can be handed a file, as that of net/http.
type sink struct {
	*httptest.ResponseRecorder
	files, others int
}

func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	limited, _ := r.(*io.LimitedReader)
	if limited != nil {
		if _, ok := limited.R.(*os.File); ok {
			s.files++
			return io.Copy(io.Discard, r)
		}
	}
	s.others++
	return io.Copy(io.Discard, r)
}

// TestSendfile has a warm blob on disk reach the ResponseWriter as a file, so
// that the kernel can send it.
func TestSendfile(t *testing.T) {
	r := upstreamtest.New(t)
	m := newDiskMirror(t, block(t, r))
	dgst := r.AddRandomBlob("app", 2<<20, 1)
	path := "/v2/up.example/app/blobs/" + dgst.String()
	m.do("GET", path)
	m.settle()
	provider := trace.NewTracerProvider()
	for name, handler := range map[string]http.Handler{
		"not traced": m.handler,
		"traced":     registry.Traced(m.handler, provider, propagation.TraceContext{}),
	} {
		for _, byteRange := range []string{"", "bytes=10-", "bytes=-100000"} {
			w := &sink{ResponseRecorder: httptest.NewRecorder()}
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			if byteRange != "" {
				req.Header.Set("Range", byteRange)
			}
			handler.ServeHTTP(w, req)
			if w.files != 1 || w.others != 0 || w.Header().Get("Cache-Status") != "weir; hit" {
				t.Errorf("%s, %q: %d files and %d other readers, %v", name, byteRange, w.files, w.others, w.Header())
			}
		}
	}
}

// newDiskMirror returns a mirror with the storage that the binary has.
func newDiskMirror(t testing.TB, specs ...namespace.Spec) *mirror {
	t.Helper()
	store, err := disk.Open(t.TempDir(), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return newMirrorOver(t, memcache.New(store, memcache.Options{MaxBytes: 32 << 20, MaxObject: 1 << 20}), store.Records(), store.Spools(), specs...)
}

// discard is a ResponseWriter that costs next to nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func BenchmarkWarmManifest(b *testing.B) {
	r := upstreamtest.New(b)
	m := newDiskMirror(b, block(b, r, func(s *namespace.Spec) { s.ImmutableTags = true }))
	image := r.AddImage("app", "v1", []byte("a layer"))
	for name, ref := range map[string]string{"tag": "v1", "digest": image.Digest.String()} {
		path := "/v2/up.example/app/manifests/" + ref
		m.do("GET", path)
		for _, method := range []string{"GET", "HEAD"} {
			b.Run(method+" by "+name, func(b *testing.B) {
				req := httptest.NewRequestWithContext(b.Context(), method, path, nil)
				w := discard{make(http.Header)}
				b.ReportAllocs()
				for b.Loop() {
					clear(w.header)
					m.handler.ServeHTTP(w, req)
				}
			})
		}
	}
}
