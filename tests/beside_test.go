package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A running mirror notices what weir gc removes beside it: it no longer serves that from memory,
// nor counts it, and the next pull stores it again. So it is with an index of the content and
// without.
func TestGCBesideTheMirror(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"with a limit": "[blob_store.fs]\nmax_size = \"1GiB\"\n", "without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"))
			layer := addRandom(t, upstream, "org/app", mib, 61)
			w := harness.StartWeir(t, settings+block("mirror", upstream))
			pull := func(label, status string) {
				expectContent(t, label, w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, status)
				expectContent(t, label, w.Get(t, blobPath("mirror/org/app", layer)), layer, status)
				w.MetricIs(t, 0, "weir_downloads")
			}
			pull("cold", statusStored)
			stored := func() (objects, bytes int) {
				var stats struct {
					Status struct {
						Store struct{ Objects, Bytes int }
					}
				}
				harness.Must(t, json.Unmarshal([]byte(ask(t, w, "stats", "-o", "json")), &stats))
				return stats.Status.Store.Objects, stats.Status.Store.Bytes
			}
			wantObjects, wantBytes := stored()
			if wantBytes < mib {
				t.Fatalf("%d bytes are stored", wantBytes)
			}

			expectResult(t, "gc", maintain(t, w, "gc", "--max-size", "0"), 0, fmt.Sprintf("removed %d objects", wantObjects))
			w.MetricIs(t, 0, "weir_store_bytes")
			w.MetricIs(t, 0, "weir_store_objects")
			if objects, bytes := stored(); objects != 0 || bytes != 0 {
				t.Errorf("weir stats counts %d objects, %d bytes", objects, bytes)
			}
			upstream.ResetRequests()
			pull("after gc", statusStored)
			expectWire(t, upstream, "after gc", "GET "+manifestPath("org/app", image.Digest.String())+" 200", "GET "+blobPath("org/app", layer)+" 200")
			if objects, bytes := stored(); objects < 2 || bytes < mib || bytes > wantBytes {
				t.Errorf("%d objects, %d bytes are stored, want what there was before", objects, bytes)
			}
			w.ExpectIntact(t)
			expect(t, "list", w.Get(t, "/v2/"), http.StatusOK, "")
		})
	}
}
