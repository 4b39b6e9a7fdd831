package tests

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A pull that begins has the other layers of its image downloaded, unless prefetch is false. A
// client that may not pull begins nothing.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	hub := upstreamtest.New(t)
	w := harness.StartWeir(t, fmt.Sprintf("[[repository.ahead.upstream]]\nurl = %q\n", hub.URL)+ // the default
		block("hidden", hub, "prefetch = true", `images = ["!org/**"]`)+block("never", hub, "prefetch = false"))
	for i, name := range []string{"never", "hidden", "ahead"} {
		repo := "org/app-" + name
		var layers []digest.Digest
		var contents [][]byte
		for n := range 3 {
			contents = append(contents, random(t, 100_000, uint64(10*i+n+1)))
			layers = append(layers, digest.FromBytes(contents[n]))
		}
		image := hub.AddImage(repo, "v1", contents...)
		manifest, first := w.Get(t, manifestPath(name+"/"+repo, "v1")), w.Get(t, blobPath(name+"/"+repo, layers[0]))
		if name == "hidden" {
			expect(t, "a manifest that is hidden", manifest, 404, "")
			expect(t, "a layer that is hidden", first, 404, "")
			continue
		}
		expectContent(t, "manifest", manifest, image.Digest, statusStored)
		expectContent(t, "first layer", first, layers[0], statusStored)
		later := statusStored
		if name == "ahead" {
			w.MetricIs(t, 200_000, "weir_prefetched_bytes_total", "namespace", name)
			later = statusHit
		}
		for _, layer := range layers[1:] {
			expectContent(t, name+": a later layer", w.Get(t, blobPath(name+"/"+repo, layer)), layer, later)
		}
	}
	w.MetricIs(t, 0, "weir_prefetched_bytes_total", "namespace", "never")
	if n := len(hub.Requests()); n != 8 { // of two images
		t.Errorf("the upstream got %d requests: %v", n, hub.Requests())
	}
}
