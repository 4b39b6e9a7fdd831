package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// limited is the configuration of a mirror whose store has limits.
func limited(upstream *upstreamtest.Registry, settings ...string) string {
	return "[blob_store.fs]\n" + strings.Join(settings, "\n") + "\n" + block("mirror", upstream)
}

// bytesStored returns how many bytes of content the mirror has on disk, with
// those of running downloads.
func bytesStored(t *testing.T, w *harness.Weir) (sum int64) {
	t.Helper()
	for _, name := range append(w.Stored(t, "blobs"), w.Stored(t, "tmp")...) {
		info, err := os.Stat(filepath.Join(w.Data, name))
		if err != nil && !os.IsNotExist(err) { // it may go meanwhile
			t.Fatal(err)
		}
		if err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// pullParts pulls an image by digest and all that is in it, checks every byte,
// and returns how many of the answers came from the cache.
func pullParts(t *testing.T, w *harness.Weir, repo string, image ocispec.Descriptor) (hits int) {
	t.Helper()
	a := w.Get(t, manifestPath(repo, image.Digest.String()))
	expectContent(t, repo, a, image.Digest, "")
	answers := []harness.Answer{a}
	for _, dgst := range contentOf(t, a.Body) {
		b := w.Get(t, blobPath(repo, dgst))
		expectContent(t, repo, b, dgst, "")
		answers = append(answers, b)
	}
	for _, a := range answers {
		if a.Header.Get("Cache-Status") == statusHit {
			hits++
		}
	}
	w.MetricIs(t, 0, "weir_downloads")
	return hits
}

// Ten images of ten MiB each pass through a store of forty. One of them is in
// use all the time, if only by HEAD requests for its manifest.
func TestMaxSize(t *testing.T) {
	testutil.Long(t, "fills a store again and again")
	t.Parallel()
	const limit = 40 * mib
	upstream := upstreamtest.New(t)
	var images []ocispec.Descriptor
	for i := range uint64(10) {
		images = append(images, upstream.AddImage("org/app", fmt.Sprint("v", i), random(t, 5*mib, 100+2*i), random(t, 5*mib, 101+2*i)))
	}
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, limited(upstream, `max_size = "40MiB"`))
	within := func(label string, limit int64) {
		t.Helper()
		if got := bytesStored(t, w); got > limit {
			t.Errorf("%s: %d bytes are on disk, of %d", label, got, limit)
		}
	}
	used := manifestPath("mirror/org/app", images[0].Digest.String())
	pullParts(t, w, "mirror/org/app", images[0])
	for round := range 2 {
		for i, image := range images[1:] {
			pullParts(t, w, "mirror/org/app", image)
			within(fmt.Sprintf("round %d, image %d", round, i+1), limit)
			expect(t, "HEAD", w.Do(t, http.MethodHead, used), http.StatusOK, statusHit)
		}
	}
	if hits := pullParts(t, w, "mirror/org/app", images[9]); hits != 4 {
		t.Errorf("the image that was pulled last: %d answers from the cache, want all 4", hits)
	}
	if hits := pullParts(t, w, "mirror/org/app", images[0]); hits != 4 {
		t.Errorf("the image in use: %d answers from the cache, want all 4", hits)
	}
	if got := w.Metric(t, "weir_store_evicted_bytes_total", "reason", "size"); got < 140*mib || got > 180*mib {
		t.Errorf("%v bytes evicted of 190 MiB that were stored and 40 that may stay", got)
	}
	if w.Metric(t, "weir_store_evicted_age_seconds") == 0 {
		t.Error("no age of evicted content")
	}
	var status api.Status
	harness.Must(t, json.Unmarshal(w.Get(t, "/api/v1/status").Body, &status))
	if got := status.Store.Evicted; got.Objects == 0 || got.Bytes < 140*mib || got.Bytes > 180*mib {
		t.Errorf("by the API, %d bytes of %d contents were evicted", got.Bytes, got.Objects)
	}
	if got := w.Metric(t, "weir_store_bytes"); got > limit {
		t.Errorf("weir_store_bytes is %v", got)
	}
	w.ExpectIntact(t)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// After a restart there is room for the last two images but one layer.
	w = harness.StartWeirIn(t, dir, limited(upstream, `max_size = "20MiB"`))
	harness.Eventually(t, "the least recently used content goes", func() bool { return bytesStored(t, w) <= 20*mib })
	if hits := pullParts(t, w, "mirror/org/app", images[0]); hits != 4 {
		t.Errorf("the image that was used last before the restart: %d answers from the cache, want all 4", hits)
	}
	if hits := pullParts(t, w, "mirror/org/app", images[7]); hits > 2 {
		t.Errorf("an older one: %d answers from the cache, want neither of its layers", hits)
	}
	within("at the end", 20*mib)
}

// A block with a cap loses its own content, and another block none: while the mirror runs, after a
// restart, and when the cap changes while it runs. No pull fails for the cap.
func TestMaxSizeOfABlock(t *testing.T) {
	testutil.Long(t, "fills a block again and again")
	t.Parallel()
	upstream := upstreamtest.New(t)
	var capped, other []digest.Digest
	for i := range uint64(8) {
		capped = append(capped, addRandom(t, upstream, "org/capped", 3*mib, 150+i))
		other = append(other, addRandom(t, upstream, "org/other", mib, 160+i))
	}
	config := func(limit string) string {
		return blockOf("capped", []string{fmt.Sprintf("max_size = %q", limit)}, at(upstream)) + blockOf("other", nil, at(upstream))
	}
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, config("10MiB"))
	for i := range capped {
		expectContent(t, "capped", w.Get(t, blobPath("capped/org/capped", capped[i])), capped[i], statusStored)
		expectContent(t, "other", w.Get(t, blobPath("other/org/other", other[i])), other[i], statusStored)
		w.MetricIs(t, 0, "weir_downloads")
	}
	stored := func(contents []digest.Digest) (n int) {
		for _, dgst := range contents {
			if _, err := os.Stat(filepath.Join(w.Data, "blobs", "sha256", dgst.Encoded()[:2], dgst.Encoded())); err == nil {
				n++
			}
		}
		return n
	}
	expectLeft := func(what string, n int) {
		t.Helper()
		harness.Eventually(t, what, func() bool { return stored(capped) == n })
		if stored(capped[8-n:]) != n || stored(other) != len(other) {
			t.Errorf("%s: %d of the newest contents of the block are left, and %d of the other block", what, stored(capped[8-n:]), stored(other))
		}
	}
	expectLeft("the block is within its cap", 3)
	w.MetricIs(t, 9*mib, "weir_store_block_bytes", "namespace", "capped")
	w.MetricIs(t, 8*mib, "weir_store_block_bytes", "namespace", "other")
	w.MetricIs(t, 10*mib, "weir_store_block_max_bytes", "namespace", "capped")
	w.MetricIs(t, 15*mib, "weir_store_evicted_bytes_total", "reason", "block")
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	w = harness.StartWeirIn(t, dir, config("7MiB"))
	expectLeft("a smaller cap after a restart", 2)
	harness.WriteFile(t, w.Config, config("5MiB"))
	expectLeft("a smaller cap after a reload", 1)
	expectContent(t, "other", w.Get(t, blobPath("other/org/other", other[0])), other[0], statusHit)
	expectContent(t, "capped", w.Get(t, blobPath("capped/org/capped", capped[0])), capped[0], statusStored)
	w.ExpectIntact(t)
}

// Content that is larger than the store, or for which the store has no room
// because all of it is being read, still reaches its client.
func TestMaxSizeStreamsPast(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	large := addRandom(t, upstream, "org/app", 30*mib, 130)
	kept := addRandom(t, upstream, "org/app", 18*mib, 131)
	other := addRandom(t, upstream, "org/app", 6*mib, 132)
	w := harness.StartWeir(t, limited(upstream, `max_size = "20MiB"`))
	expectContent(t, "kept", w.Get(t, blobPath("mirror/org/app", kept)), kept, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	for range 2 {
		w.Pull(t, blobPath("mirror/org/app", large)).Whole(t, "larger than the store", large)
		w.MetricIs(t, 0, "weir_downloads")
	}
	w.Logs(t, "cannot store content", "max_size")
	reading := w.OpenSlow(t, blobPath("mirror/org/app", kept))
	w.Pull(t, blobPath("mirror/org/app", other)).Whole(t, "beside content that is being read", other)
	expectContent(t, "kept", w.Get(t, blobPath("mirror/org/app", kept)), kept, statusHit)
	reading.Body.Close()
	harness.Eventually(t, "there is room again", func() bool {
		w.MetricIs(t, 0, "weir_downloads")
		return w.Get(t, blobPath("mirror/org/app", other)).Header.Get("Cache-Status") == statusHit
	})
	if got := bytesStored(t, w); got > 20*mib {
		t.Errorf("%d bytes are on disk", got)
	}
	w.ExpectIntact(t)
}

// Space for new content on a small filesystem is made by evicting.
func TestMinFreeEvicts(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeirIn(t, onTmpfs(t, "16m"), limited(upstream, `min_free = "4MiB"`))
	for i := range uint64(8) {
		dgst := addRandom(t, upstream, "org/app", 3*mib, 140+i)
		expectContent(t, fmt.Sprint("blob ", i), w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
		w.MetricIs(t, 0, "weir_downloads")
		expectContent(t, fmt.Sprint("again ", i), w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
	}
	if got := bytesStored(t, w); got > 12*mib {
		t.Errorf("%d bytes are on disk, of 16 MiB less 4", got)
	}
	if w.Metric(t, "weir_store_evicted_bytes_total", "reason", "free") == 0 {
		t.Error("nothing was evicted for min_free")
	}
	if w.Log.Count("cannot store content") > 0 {
		t.Error("content could not be stored")
	}
}
