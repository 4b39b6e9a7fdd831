package tests

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A layer whose download began for a repository that cannot have it is brought
// for another repository of the block that can.
func TestWarmBesideAFailure(t *testing.T) {
	t.Parallel()
	layer := make([]byte, mib)
	rand.Read(layer)
	dgst := digest.FromBytes(layer)
	registry := upstreamtest.New(t)
	registry.AddImage("org/whole", "v1", layer)
	registry.AddImage("org/lacking", "v1", layer)
	registry.Remove("org/lacking", dgst)
	gate := upstreamtest.NewGate()
	registry.Fault(upstreamtest.All(upstreamtest.Path("org/lacking"), upstreamtest.Path(dgst.String())), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("registry", registry))
	ended := make(chan result, 2)
	begin := func(repo string) {
		go func() { ended <- warm(t, w, "registry/"+repo+":v1") }()
	}
	begin("org/lacking")
	arrived(t, gate, 1)
	begin("org/whole")
	w.MetricIs(t, 2, "weir_download_readers")
	gate.Open()
	for range 2 {
		switch got := <-ended; {
		case strings.Contains(got.stdout, "warm registry/org/whole:v1") && got.code == 0:
		case strings.Contains(got.stdout, "failed registry/org/lacking:v1: blob "+dgst.String()+": 404: ") && got.code == 1:
		default:
			t.Errorf("%+v", got)
		}
	}
	expectContent(t, "the layer", w.Get(t, blobPath("registry/org/whole", dgst)), dgst, statusHit)
}
