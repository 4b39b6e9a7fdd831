package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Mirrors on one bucket with a limit evict by the uses of all of them. The one that evicts is
// killed after it has chosen: another one takes over, and removes the right content and no
// other. What is gone is pulled from upstream.
func TestEvictionFromBucket(t *testing.T) {
	testutil.Long(t, "a lease has to end, and evicted content leaves for 2.5 s")
	t.Parallel()
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	a, b, c := addImage(upstream, "a", content(3*mib, 1)), addImage(upstream, "b", content(3*mib, 2)), addImage(upstream, "c", content(3*mib, 3))
	config := bucket.Config("max_size = \"8MiB\"\neviction_interval = \"1s\"") + streamed + block(upstream)
	has := func(i image) bool {
		_, err := os.Stat(filepath.Join(bucket.Dir, key(i.layer)))
		return err == nil
	}
	evicting := func(w *harness.Weir) func() bool {
		return func() bool { return w.Metric(t, "weir_s3_index_timestamp_seconds") > 0 }
	}

	keeper := harness.StartWeir(t, config)
	harness.Eventually(t, "the first mirror evicts", evicting(keeper))
	first := harness.StartWeir(t, config)
	pull(t, first, a, "a")
	pull(t, first, b, "b")
	harness.Eventually(t, "two images are in the bucket", func() bool { return has(a) && has(b) })
	if code := first.Terminate(t); code != 0 { // it tells its uses
		t.Errorf("exit code %d", code)
	}

	second := harness.StartWeir(t, config)
	pull(t, second, a, "a")
	pull(t, second, c, "c")
	harness.Eventually(t, "the second image leaves", func() bool {
		plan, err := os.ReadFile(filepath.Join(bucket.Dir, "eviction/plan"))
		return err == nil && strings.Contains(string(plan), b.layer.String())
	})
	keeper.Kill()
	harness.Eventually(t, "another mirror evicts", evicting(second))
	harness.Eventually(t, "the second image is gone", func() bool { return !has(b) })
	if !has(a) || !has(c) {
		t.Errorf("content in use was evicted: a is there: %v, c is there: %v", has(a), has(c))
	}
	harness.Eventually(t, "the metrics tell so", func() bool {
		return second.Metric(t, "weir_s3_evicted_bytes_total", "reason", "size") >= 3*mib
	})
	pull(t, harness.StartWeir(t, config), b, "b")
}
