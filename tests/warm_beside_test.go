package tests

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A layer whose download began for a repository that cannot have it is brought
// for the one that can.
func TestWarmBesideAFailure(t *testing.T) {
	t.Parallel()
	whole, lacking := upstreamtest.New(t), upstreamtest.New(t)
	publish(t, whole, "org/app", "v1", mib)
	image := publish(t, lacking, "org/app", "v1", mib)
	lacking.Remove("org/app", image.blobs[1])
	gate := upstreamtest.NewGate()
	lacking.Fault(upstreamtest.Path(image.blobs[1].String()), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("whole", whole)+block("lacking", lacking))
	ended := make(chan result, 2)
	begin := func(name string) {
		go func() { ended <- warm(t, w, "--platform", "linux/amd64", name+"/org/app:v1") }()
	}
	begin("lacking")
	arrived(t, gate, 1)
	begin("whole")
	w.MetricIs(t, 2, "weir_download_readers")
	gate.Open()
	for range 2 {
		switch got := <-ended; {
		case strings.Contains(got.stdout, "warm whole/org/app:v1") && got.code == 0:
		case strings.Contains(got.stdout, "failed lacking/org/app:v1: blob "+image.blobs[1].String()+": 404: ") && got.code == 1:
		default:
			t.Errorf("%+v", got)
		}
	}
	expectContent(t, "the layer", w.Get(t, blobPath("whole/org/app", image.blobs[1])), image.blobs[1], statusHit)
}
