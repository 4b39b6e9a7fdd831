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
	pull := func() int {
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil))
		return w.Code
	}
	if code := pull(); code != http.StatusOK {
		b.Fatal(code)
	}
	b.ReportAllocs()
	for b.Loop() {
		if code := pull(); code != http.StatusOK {
			b.Fatal(code)
		}
	}
}
