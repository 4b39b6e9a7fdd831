package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// An image is warm without the content that its registry lacks and clients can do
// without, and a line says so.
func TestWarmWithoutMissingContent(t *testing.T) {
	testutil.Long(t, "warms image after image")
	t.Parallel()
	upstream := upstreamtest.New(t)
	partly := publish(t, upstream, "org/partly", "v1", kib)
	upstream.Remove("org/partly", partly.arm64.Digest)
	empty := publish(t, upstream, "org/empty", "v1", kib)
	upstream.Remove("org/empty", empty.arm64.Digest)
	upstream.Remove("org/empty", empty.amd64.Digest)
	foreign, kept, lost := ocispec.MediaTypeImageLayer, []byte("a kept layer"), []byte("a lost layer")
	upstream.AddBlob("org/windows", kept)
	upstream.AddBlob("org/windows", []byte("{}"))
	layer := func(content []byte) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"urls":["https://elsewhere.example/layer"]}`, foreign, digest.FromBytes(content), len(content))
	}
	upstream.AddManifest("org/windows", "v1", ocispec.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[%s,%s]}`,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, digest.FromString("{}"), layer(kept), layer(lost)))
	w := harness.StartWeir(t, block("mirror", upstream))

	got := warm(t, w, "mirror/org/partly:v1")
	expectWarm(t, "a platform is missing", got, "warm mirror/org/partly:v1: new ",
		"note mirror/org/partly:v1: the registry lacks 1 manifest that an index names: linux/arm64\n", "images: 1 warm, 0 failed")
	if n := strings.Count(got.stdout, "note "); n != 1 {
		t.Errorf("%d notes: %s", n, got.stdout)
	}
	path := "GET " + manifestPath("org/partly", partly.arm64.Digest.String()) + " 404"
	if requests := asked(upstream); !slices.Contains(requests, path) || slices.Contains(requests, "GET "+blobPath("org/partly", partly.blobs[2])+" 200") {
		t.Errorf("asked %q", requests)
	}
	expectContent(t, "the rest", w.Get(t, blobPath("mirror/org/partly", partly.blobs[1])), partly.blobs[1], statusHit)

	expectFailed(t, "all platforms are missing", warm(t, w, "mirror/org/empty:v1"), 1,
		"failed mirror/org/empty:v1: the registry lacks all manifests that v1 names: linux/amd64, linux/arm64")
	expectFailed(t, "the wanted platform is missing", warm(t, w, "--platform", "linux/arm64", "mirror/org/partly:v1"), 1,
		"the registry lacks all manifests that v1 names: linux/arm64")
	upstream.ResetRequests()

	got = warm(t, w, "mirror/org/windows:v1")
	expectWarm(t, "a foreign layer", got, "warm mirror/org/windows:v1: new ",
		"note mirror/org/windows:v1: the registry lacks 1 foreign layer, which clients fetch from its own address: "+digest.FromBytes(lost).String()+"\n")
	requests := asked(upstream)
	for _, want := range []string{"GET " + blobPath("org/windows", digest.FromBytes(kept)) + " 200", "GET " + blobPath("org/windows", digest.FromBytes(lost)) + " 404"} {
		if !slices.Contains(requests, want) {
			t.Errorf("no %s in %q", want, requests)
		}
	}
	if quiet := warm(t, w, "--quiet", "mirror/org/windows:v1"); quiet != (result{}) {
		t.Errorf("quiet: %+v", quiet)
	}

	// An upstream's failure is no missing content, nor is a mirror's own refusal.
	upstream.Fault(upstreamtest.Path("/manifests/"+partly.arm64.Digest.String()), upstreamtest.Status(500, ""))
	w2 := harness.StartWeir(t, block("mirror", upstream))
	expectFailed(t, "500", warm(t, w2, "mirror/org/partly:v1"), 1, "failed mirror/org/partly:v1: manifest "+partly.arm64.Digest.String()+": 502: ")
}
