package tests

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The upstream of one block answers 200 to every HEAD, and so claims the private content
// of another block, whose digests it knows. It has the beginnings of some blobs, too.
func TestClaimedContentStaysPrivate(t *testing.T) {
	t.Parallel()
	private, lying := upstreamtest.New(t), upstreamtest.New(t)
	w := harness.StartWeir(t, block("private", private)+block("lying", lying))
	secret := []byte("a secret layer")
	image := private.AddImage("org/app", "v1", secret)
	small, large := private.AddBlob("org/app", secret), private.AddRandomBlob("org/app", 3<<20, 1)
	for _, path := range []string{manifestPath("private/org/app", "v1"), blobPath("private/org/app", small), blobPath("private/org/app", large)} {
		expect(t, "the owner", w.Get(t, path), http.StatusOK, statusStored)
	}
	w.MetricIs(t, 0, "weir_downloads")

	lying.Fault(isHead, upstreamtest.Status(200, ""), upstreamtest.Header("Docker-Content-Digest", image.Digest.String()),
		upstreamtest.Header("Content-Type", image.MediaType), upstreamtest.Header("Content-Length", fmt.Sprint(image.Size)))
	half := make([]byte, 3<<20)
	if _, err := upstreamtest.RandomBlob(3<<20, 1).ReadAt(half[:2<<20], 0); err != nil {
		t.Fatal(err)
	}
	lying.AddBlobAs("org/app", large, half)
	given := 0
	for _, path := range []string{
		manifestPath("lying/org/app", "v1"), manifestPath("lying/org/app", image.Digest.String()),
		blobPath("lying/org/app", small), blobPath("lying/org/app", large), blobPath("lying/org/app", image.Digest),
	} {
		for range 2 {
			w.Do(t, http.MethodHead, path)
			// Of the large one, only the liar's own bytes come, and never all of them.
			if a := w.Get(t, path); a.Status == http.StatusOK && (a.Err == nil || !slices.Equal(a.Body, half[:len(a.Body)])) {
				t.Errorf("GET %s: %d bytes, %v, %s", path, len(a.Body), a.Err, a.Header.Get("Cache-Status"))
				given++
			}
		}
	}
	t.Logf("%d of 10 requests for content that its upstream only claims were served", given)
	expect(t, "the owner", w.Get(t, blobPath("private/org/app", large)), http.StatusOK, statusHit)
}
