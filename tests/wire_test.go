package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

// block is a repository block with one upstream.
func block(key string, upstream *upstreamtest.Registry, settings ...string) string {
	return fmt.Sprintf("[repository.%q]\n%s\n[[repository.%[1]q.upstream]]\nurl = %[3]q\n",
		key, strings.Join(settings, "\n"), upstream.URL.String())
}

// expectWire fails the test unless the upstream was asked exactly this since
// the last call.
func expectWire(t *testing.T, upstream *upstreamtest.Registry, what string, want ...string) {
	t.Helper()
	if got := upstream.Requests(); !slices.Equal(got, want) {
		t.Errorf("%s: the upstream was asked\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	upstream.ResetRequests()
}

// The whole of a pull by tag, cold and warm, request by request.
func TestPullOnTheWire(t *testing.T) {
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := startWeir(t, block("mirror", upstream))
	manifest := "/v2/mirror/org/app/manifests/"
	upstreamManifest := "/v2/org/app/manifests/"

	if a := w.get(t, manifest+"v1"); a.Status != 200 || a.Header.Get("Docker-Content-Digest") != image.Digest.String() ||
		a.Header.Get("Cache-Status") != "weir; fwd=uri-miss; stored" {
		t.Errorf("cold: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "cold by tag", "GET "+upstreamManifest+"v1 200")

	if a := w.get(t, manifest+"v1"); a.Status != 200 || a.Header.Get("Cache-Status") != "weir; hit; detail=revalidated" {
		t.Errorf("warm: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "warm by tag", "HEAD "+upstreamManifest+"v1 200")

	if a := w.get(t, manifest+image.Digest.String()); a.Status != 200 || a.Header.Get("Cache-Status") != "weir; hit" {
		t.Errorf("by digest: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "by digest")
}
