package fleet

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Mirrors on one bucket with a limit evict by the uses of all of them. The one that evicts is
// killed after it has chosen: another one takes over, and removes the right content and no
// other. Evicted content is pulled from upstream. Objects of other programs in the same bucket stay as
// they are, and the log says so.
func TestEvictionFromBucket(t *testing.T) {
	testutil.Long(t, "a lease has to end, and evicted content leaves for 2.5 s")
	t.Parallel()
	for name, lease := range map[string]func(*testing.T) string{
		"a lease in the bucket": func(*testing.T) string { return "" },
		"a lease in Redis": func(t *testing.T) string {
			return fmt.Sprintf("[cache.redis]\nurl = %q\n", redistest.Start(t).URL())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testEviction(t, lease(t))
		})
	}
}

// testEviction runs the mirrors with the settings of where their lease is.
func testEviction(t *testing.T, lease string) {
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	a, b, c := addImage(upstream, "a", content(3*mib, 1)), addImage(upstream, "b", content(3*mib, 2)), addImage(upstream, "c", content(3*mib, 3))
	config := bucket.Config("max_size = \"8MiB\"\neviction_interval = \"1s\"") + lease + streamed + block(upstream)
	has := func(i image) bool {
		_, err := os.Stat(filepath.Join(bucket.Dir, key(i.layer)))
		return err == nil
	}
	foreign := map[string]string{"docker/registry/v2/x": "an image", "blobs/sha256/photo.jpg": "a photo", "blobs/sha256/ab/" + strings.Repeat("c", 63): "no digest", "eviction/uses/a b": "no note"}
	for name, body := range foreign {
		_, err := bucket.Owner.PutObject(t.Context(), "mirror", name, strings.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
		harness.Must(t, err)
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
	for name, body := range foreign {
		if now, err := os.ReadFile(filepath.Join(bucket.Dir, name)); err != nil || string(now) != body {
			t.Errorf("an object of another program: %v, %q", err, now)
		}
	}
	keeper.Logs(t, "there are keys of another program, such as docker/") // at the start
	second.Logs(t, `"msg":"the bucket has keys of other programs`)
}

// A repository block with a limit loses its own content in the bucket, and another one none,
// though several mirrors upload for both, and another mirror evicts after the first one has ended.
// The limit is changed while mirrors run.
func TestEvictionOfABlockFromBucket(t *testing.T) {
	testutil.Long(t, "evicted content leaves for 2.5 s each time")
	t.Parallel()
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	var limited, other []image
	for i := range 4 {
		limited = append(limited, addImage(upstream, fmt.Sprint("l", i), content(3*mib, byte(10+i))))
		other = append(other, addImage(upstream, fmt.Sprint("o", i), content(3*mib, byte(20+i))))
	}
	config := func(limit string) string {
		return bucket.Config("eviction_interval = \"1s\"") + streamed + block(upstream, fmt.Sprintf("max_size = %q", limit)) +
			strings.ReplaceAll(block(upstream), "repository.mirror", "repository.other")
	}
	stored := func(images []image) (n int) {
		for _, i := range images {
			if _, err := os.Stat(filepath.Join(bucket.Dir, key(i.layer))); err == nil {
				n++
			}
		}
		return n
	}
	one := harness.StartWeir(t, config("1GiB"))
	harness.Eventually(t, "the first mirror evicts", func() bool { return one.Metric(t, "weir_s3_index_timestamp_seconds") > 0 })
	two := harness.StartWeir(t, config("1GiB"))
	for i := range limited {
		w := []*harness.Weir{one, two}[i%2]
		pull(t, w, limited[i], fmt.Sprint("l", i))
		path := "/v2/other/org/app/blobs/" + other[i].layer.String()
		w.Pull(t, path).Whole(t, path, other[i].layer)
	}
	harness.Eventually(t, "all is in the bucket", func() bool { return stored(limited) == 4 && stored(other) == 4 })
	harness.Eventually(t, "the owners are known", func() bool {
		return one.Metric(t, "weir_s3_block_bytes", "namespace", "mirror") >= 12*mib && one.Metric(t, "weir_s3_block_bytes", "namespace", "other") >= 12*mib
	})
	expectLeft := func(what string, n int) {
		t.Helper()
		harness.Eventually(t, what, func() bool { return stored(limited) == n })
		if stored(other) != 4 {
			t.Errorf("%s: %d layers of the other block are left, want 4", what, stored(other))
		}
	}
	harness.WriteFile(t, one.Config, config("10MiB"))
	expectLeft("a limit that came while the mirror runs", 3)
	if code := one.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	harness.Eventually(t, "the second mirror evicts, and knows the owners", func() bool {
		return two.Metric(t, "weir_s3_block_bytes", "namespace", "mirror") >= 9*mib
	})
	harness.WriteFile(t, two.Config, config("7MiB"))
	expectLeft("a limit of the successor", 2)
	harness.Eventually(t, "the metrics tell so", func() bool {
		return two.Metric(t, "weir_s3_evicted_bytes_total", "reason", "block") >= 3*mib
	})
}

// A bucket that does not let itself be listed, or forbids deletions, holds up neither the start
// nor pulls, and nothing is evicted. The log says so once.
func TestEvictionIsRefused(t *testing.T) {
	t.Parallel()
	isList := func(r *http.Request) bool { return r.URL.Query().Has("list-type") }
	isDelete := func(r *http.Request) bool { return r.Method == http.MethodDelete || r.URL.Query().Has("delete") }
	for name, tc := range map[string]struct {
		fault func(*testing.T, *s3test.Server)
		log   string // empty: none
	}{
		"lists never end": {fault: func(t *testing.T, s *s3test.Server) {
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			s.Intercept(instead(isList, func(http.ResponseWriter, *http.Request, http.Handler) { <-end }))
		}},
		"no permission to list":   {func(_ *testing.T, s *s3test.Server) { s.FailIf(isList, 403, "AccessDenied") }, `"msg":"nothing is evicted from the bucket`},
		"no permission to delete": {func(_ *testing.T, s *s3test.Server) { s.FailIf(isDelete, 403, "AccessDenied") }, `"msg":"nothing is evicted from the bucket`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket, upstream := s3test.New(t), upstreamtest.New(t)
			tc.fault(t, bucket)
			a := addImage(upstream, "a", content(6*mib, 1))
			w := harness.StartWeir(t, bucket.Config("max_size = \"5MiB\"\neviction_interval = \"1s\"")+streamed+block(upstream))
			if answer := w.Get(t, "/readyz"); answer.Status != http.StatusOK {
				t.Errorf("/readyz: %d", answer.Status)
			}
			pull(t, w, a, "a")
			inBucket(t, bucket, 3, a.manifest, a.layer)
			if tc.log != "" {
				w.Logs(t, tc.log)
				if n := w.Log.Count(tc.log); n != 1 {
					t.Errorf("%d lines say %q", n, tc.log)
				}
			}
			w.MetricIs(t, 0, "weir_s3_evicted_bytes_total")
			w.MetricIs(t, 0, "weir_s3_index_timestamp_seconds")
		})
	}
}
