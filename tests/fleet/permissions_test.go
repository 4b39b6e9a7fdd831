package fleet

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// notEvicting begins the line of the log about an eviction that is not possible.
const notEvicting = `"msg":"nothing is evicted from the bucket`

// A user of a real server who lacks a permission costs no pull, whether the image is in the bucket
// or not. The log names the permission once, and so does weir check. Content that can be read is
// read from the bucket. Nothing is evicted by a user who may not list, write or delete, and the
// server is not asked for that again and again.
func TestBucketPermissions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		denied   string
		remedy   string // in the log and from weir check
		unread   bool   // nothing can be read
		unstored bool   // nothing can be uploaded
	}{
		"list":   {denied: "s3:ListBucket", remedy: "Allow s3:ListBucket on the bucket."},
		"delete": {denied: "s3:DeleteObject", remedy: "Allow s3:DeleteObject on the keys"},
		"write":  {denied: "s3:PutObject", remedy: "Allow s3:PutObject on the keys", unstored: true},
		"read":   {denied: "s3:GetObject", remedy: "and s3:GetObject", unread: true, unstored: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
			there, more := addImage(upstream, "there", content(6*mib, 21)), addImage(upstream, "more", content(2*mib, 22))
			has := func(i image) bool {
				_, layer := os.Stat(filepath.Join(bucket.Dir, key(i.layer)))
				_, manifest := os.Stat(filepath.Join(bucket.Dir, key(i.manifest)))
				return layer == nil && manifest == nil
			}
			// The owner's mirror ends with its records in the bucket.
			owner := harness.StartWeir(t, bucket.Config("")+streamed+block(upstream))
			pull(t, owner, there, "there")
			harness.Eventually(t, "the image is in the bucket", func() bool { return has(there) })
			if code := owner.Terminate(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			bucket.Allow(t, tc.denied)
			upstream.ResetRequests()

			w := harness.StartWeir(t, bucket.UserConfig("max_size = \"5MiB\"\neviction_interval = \"1s\"\nmax_attempts = 1")+streamed+block(upstream))
			w.Logs(t, tc.remedy)
			pull(t, w, more, "more")
			pull(t, w, there, "there")
			for _, r := range upstream.Requests() {
				if fetched := strings.HasPrefix(r, "GET") && strings.Contains(r, there.layer.String()); fetched && !tc.unread {
					t.Errorf("content of the bucket was fetched: %s", r)
				}
			}
			if tc.unread {
				w.Logs(t, "the bucket cannot be used")
			} else {
				w.Logs(t, notEvicting)
				w.MetricIs(t, 0, "weir_s3_paused")
			}
			if !tc.unstored {
				harness.Eventually(t, "the other image is in the bucket", func() bool { return has(more) })
			}
			harness.Eventually(t, "the metrics tell of refusals", func() bool {
				return w.Metric(t, "weir_s3_operations_total", "result", "denied") > 0
			})
			w.MetricIs(t, 0, "weir_s3_evicted_objects_total")
			if answer := w.Get(t, "/readyz"); answer.Status != http.StatusOK {
				t.Errorf("/readyz: %d %s", answer.Status, answer.Body)
			}
			for _, line := range []string{`"step":`, notEvicting, "the bucket cannot be used"} {
				if n := w.Log.Count(line, tc.remedy, `"level":"ERROR"`); n > 1 {
					t.Errorf("%d lines of the log have %s and %q", n, line, tc.remedy)
				}
			}
			if code, out := weir(t, "check", "--online", "--config", w.Config); code == 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), tc.remedy) {
				t.Errorf("weir check: exit code %d\n%s", code, out)
			}
			if !has(there) {
				t.Error("content of the bucket is gone")
			}
		})
	}
}
