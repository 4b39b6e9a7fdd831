package tests

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Downloads that never end and that their clients have left, of one upstream or of several,
// leave jobs for those of other blocks: the download of an honest registry, which its client
// has left too, is completed.
func TestTarpitLeavesJobs(t *testing.T) {
	t.Parallel()
	const jobs, downloads, size = 4, 8, 2 * mib
	for name, c := range map[string]struct {
		blocks    int
		announced int64
	}{
		"of one block":                {blocks: 1, announced: -1},
		"of two blocks":               {blocks: 2, announced: -1},
		"with a length that is known": {blocks: 1, announced: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			honest := upstreamtest.New(t)
			wanted := addRandom(t, honest, "org/app", size, 63000)
			gate := upstreamtest.NewGate()
			honest.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/2, gate))
			config := fmt.Sprintf("[global]\nmax_concurrent_cache_jobs = %d\n", jobs) + block("mirror", honest)
			for i := range c.blocks {
				hostile, _ := tarpit(t, c.announced, 64*kib)
				config += blockOf(fmt.Sprint("hostile", i), nil, []string{fmt.Sprintf("url = %q", hostile.URL)})
			}
			w := harness.StartWeir(t, config)
			for i := range c.blocks {
				for n := range downloads {
					leave(t, w, blobPath(fmt.Sprintf("hostile%d/org/app", i), invented(1000*i+n)), 1)
				}
			}
			w.MetricIs(t, float64(c.blocks*downloads), "weir_jobs") // running and queued
			leave(t, w, blobPath("mirror/org/app", wanted), 1)
			// A download that ends before the mirror notices the departure needs no job.
			w.MetricIs(t, float64(c.blocks*downloads+1), "weir_jobs")
			gate.Open()
			began := time.Now()
			w.MetricIs(t, 1, "weir_downloads_ended_total", "result", "stored")
			w.MetricIs(t, 1, "weir_jobs_total", "result", "done")
			t.Logf("%v jobs run; the honest download was completed after %s", w.Metric(t, "weir_jobs", "state", "running"), time.Since(began).Round(time.Millisecond))
			expectContent(t, "completed", w.Get(t, blobPath("mirror/org/app", wanted)), wanted, statusHit)
		})
	}
}
