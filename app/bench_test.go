package app

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

// BenchmarkWarmManifest measures a manifest by digest from the cache, through all
// layers but the network: the routes, the log, the metrics, the store.
func BenchmarkWarmManifest(b *testing.B) {
	up := upstreamtest.New(b)
	image := up.AddImage("org/app", "v1", []byte("a layer"))
	cfg, _ := loadText(b, "[[repository.\"up.example\".upstream]]\nurl = \""+up.URL.String()+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		b.Fatal(err)
	}
	defer m.close()
	path := "/v2/up.example/org/app/manifests/" + image.Digest.String()
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		b.Fatal(w.Code)
	}
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil)
	sink := discardBody{make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		clear(sink.header)
		m.handler.ServeHTTP(sink, req)
	}
}

// discardBody is a response writer without a connection.
type discardBody struct{ header http.Header }

func (d discardBody) Header() http.Header         { return d.header }
func (d discardBody) Write(p []byte) (int, error) { return len(p), nil }
func (d discardBody) WriteHeader(int)             {}
