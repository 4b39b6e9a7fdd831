package tests

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

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

// A right that its upstream withdraws ends with the next use after recheck_possession.
func TestWithdrawnRights(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream, `recheck_possession = "1s"`, "immutable_tags = true"))
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	layer := upstream.AddBlob("org/app", []byte("a layer"))
	paths := []string{manifestPath("mirror/org/app", "v1"), manifestPath("mirror/org/app", image.Digest.String()), blobPath("mirror/org/app", layer)}
	for _, path := range paths {
		expect(t, "the right is there", w.Get(t, path), http.StatusOK, "")
	}
	w.MetricIs(t, 0, "weir_downloads")
	upstream.Fault(upstreamtest.Any, upstreamtest.Status(403, ""))
	time.Sleep(1100 * time.Millisecond) // the real clock of the binary decides
	for _, path := range paths {
		for range 2 {
			expect(t, "withdrawn: "+path, w.Get(t, path), http.StatusForbidden, "")
		}
	}
}
