package tests

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
)

// The content of a real registry is imported beside the running mirror. The first pull
// costs the upstream a manifest, a config and two samples of each layer.
func TestImportFromRegistry(t *testing.T) {
	t.Parallel()
	d := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	img := harness.NewImage(t, 1<<20, 300<<10)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr}
	push.PushImage(t, "org/app", "1.2", img)
	w := harness.StartWeir(t, fmt.Sprintf("[repository.\"quay.io\"]\nprefetch = false\n[[repository.\"quay.io\".upstream]]\nurl = \"http://%s\"\n", d.Addr))

	const contents = 4 // the manifest, the config and two layers
	for _, want := range []string{
		fmt.Sprintf("imported %d objects, ", contents),
		fmt.Sprintf("imported 0 objects, 0 B; already stored %d objects, ", contents),
	} {
		expectResult(t, "import", maintain(t, w, "import", "--from-registry-dir", d.Data), 0, want)
	}
	w.ExpectIntact(t)
	if stored := w.Stored(t, "blobs"); len(stored) != contents {
		t.Errorf("stored %q", stored)
	}
	pullImage(t, w, "quay.io/org/app", "1.2", img)
	for _, layer := range img.Layers {
		part := "/blobs/" + digest.FromBytes(layer).String()
		if whole, samples := d.Served("GET", part), d.Log.Count(`"GET /v2/`, part, `" 206 `); whole != 0 || samples != 2 {
			t.Errorf("%s: %d GETs of the layer and %d of samples, want 0 and 2\n%s", part, whole, samples, d.Log)
		}
	}
	// Now the repository may serve them.
	before := d.Log.Count(`"GET /v2/`)
	pullImage(t, w, "quay.io/org/app", img.Digest.String(), img)
	if after := d.Log.Count(`"GET /v2/`); after != before {
		t.Errorf("the second pull cost %d GETs", after-before)
	}

	// An import gives no right to content that the upstream does not have.
	push.PushBlob(t, "org/other", []byte("private"))
	expectResult(t, "import", maintain(t, w, "import", "--from-registry-dir", filepath.Join(d.Data, "docker")), 0, "imported 1 object, 7 B")
	expect(t, "private", w.Get(t, blobPath("quay.io/org/app", digest.FromString("private"))), http.StatusNotFound, "")
}
