package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Bytes of an upstream with max_bandwidth wait for their time, whole and in ranges.
// Cached content does not.
func TestMaxBandwidth(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, "[global]\nmax_bandwidth = \"100MiB\"\n"+block("mirror", upstream)+"max_bandwidth = \"2MiB\"\n")
	throttled := func(limit string) float64 {
		return w.Metric(t, "weir_upstream_throttled_seconds_total", "upstream", upstream.URL.Host, "limit", limit)
	}
	cold := addRandom(t, upstream, "org/app", mib, 70100)
	path := blobPath("mirror/org/app", cold)
	w.Pull(t, path).Whole(t, "the cold blob", cold)
	first := throttled("upstream")
	if first == 0 || throttled("global") != 0 {
		t.Errorf("the blob waited for %v s, and %v s for the larger limit", first, throttled("global"))
	}
	w.Pull(t, path).Whole(t, "the warm blob", cold)
	if got := throttled("upstream"); got != first {
		t.Errorf("a cached blob waited for %v s", got-first)
	}
	other := addRandom(t, upstream, "org/app", 2*mib, 70101)
	if a := w.Get(t, blobPath("mirror/org/app", other), "Range", "bytes=1572864-1835007"); a.Status != http.StatusPartialContent || len(a.Body) != 256*kib {
		t.Errorf("a range: %d, %d bytes", a.Status, len(a.Body))
	}
	if got := throttled("upstream"); got == first {
		t.Error("a range did not wait")
	}
	w.ExpectIntact(t)
}

// An upstream with max_connections never has more requests at once. Further ones wait, and a
// reload raises the limit.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(100, gate))
	w := harness.StartWeir(t, block("mirror", upstream)+"max_connections = 3\n")
	var pulls []*harness.Pulling
	var blobs []digest.Digest
	for i := range 8 {
		blobs = append(blobs, addRandom(t, upstream, "org/app", 64*kib, uint64(70000+i)))
		pulls = append(pulls, w.Pull(t, blobPath("mirror/org/app", blobs[i])))
	}
	host := upstream.URL.Host
	w.MetricIs(t, 5, "weir_upstream_connections", "upstream", host, "state", "waiting") // all places are taken
	tag := w.Pull(t, manifestPath("mirror/org/app", "v1"))
	w.MetricIs(t, 6, "weir_upstream_connections", "upstream", host, "state", "waiting")
	w.MetricIs(t, 3, "weir_upstream_connections", "upstream", host, "state", "busy")
	if got := upstream.Requests(); len(got) != 3 {
		t.Errorf("the upstream was asked %q", got)
	}
	gate.Open()
	for i, p := range pulls {
		p.Whole(t, fmt.Sprint("blob ", i), blobs[i])
	}
	if tag.Wait(t); tag.Err != nil {
		t.Error(tag.Err)
	}
	w.MetricIs(t, 0, "weir_upstream_connections", "upstream", host, "state", "busy")
	rename(t, w.Config, block("mirror", upstream)+"max_connections = 5\n")
	w.MetricIs(t, 5, "weir_upstream_connections", "upstream", host, "state", "max")
	w.ExpectIntact(t)
}
