package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func warmBlock(upstream *upstreamtest.Registry, images ...string) string {
	return block("mirror", upstream) + fmt.Sprintf("[[repository.mirror.warm]]\nimages = [\"%s\"]\n", strings.Join(images, `", "`))
}

// The server warms the images of its configuration, soon after the start and
// after a reload; a restart costs a HEAD.
func TestServerWarms(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	one, two := publish(t, upstream, "org/one", "v1", kib), publish(t, upstream, "org/two", "v1", kib)
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, warmBlock(upstream, "org/one:v1"))
	w.Logs(t, "an image was warmed", `"image":"mirror/org/one:v1"`, one.index.Digest.String(), `"new":13`)
	w.MetricIs(t, 1, "weir_warm_total", "namespace", "mirror", "result", "done")
	if n := len(asked(upstream)); n != 13 {
		t.Errorf("it cost %d requests", n)
	}

	rename(t, w.Config, warmBlock(upstream, "mirror/org/two:v1", "org/none:v1")+"every = \"1m\"\nplatforms = [\"linux/arm64\"]\n")
	w.Logs(t, inForce)
	w.Logs(t, "an image was warmed", `"image":"mirror/org/two:v1"`, two.index.Digest.String(), `"new":9`)
	w.Logs(t, "a background cache job failed", "org/none:v1", "Weir tries again in 1m0s")
	w.MetricIs(t, 1, "weir_warm_failing", "namespace", "mirror")
	if requests := asked(upstream); slices.ContainsFunc(requests, func(r string) bool {
		return strings.Contains(r, "org/one") || strings.Contains(r, two.amd64.Digest.String())
	}) {
		t.Errorf("asked:\n%s", strings.Join(requests, "\n"))
	}
	expectContent(t, "brought", w.Get(t, blobPath("mirror/org/two", two.blobs[2])), two.blobs[2], statusHit)

	rename(t, w.Config, block("mirror", upstream))
	harness.Eventually(t, "nothing is to be kept warm", func() bool { return w.Metric(t, "weir_warm_failing") == 0 })
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	asked(upstream)
	w = harness.StartWeirIn(t, dir, warmBlock(upstream, "org/one:v1"))
	w.Logs(t, "an image was warmed", `"already_there":13`)
	if requests := asked(upstream); !slices.Equal(requests, []string{"HEAD " + manifestPath("org/one", "v1") + " 200"}) {
		t.Errorf("a restart cost %q", requests)
	}
}

// A shutdown does not wait for downloads of the warmer alone.
func TestShutdownCancelsWarming(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", mib)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Path(image.blobs[0].String()), upstreamtest.StallAfter(100*kib, gate))
	w := harness.StartWeir(t, warmBlock(upstream, "org/app:v1"))
	arrived(t, gate, 1)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if slices.Contains(w.Stored(t, "blobs"), image.blobs[0].Encoded()) {
		t.Error("content that never came is stored")
	}
	w.ExpectIntact(t)
}
