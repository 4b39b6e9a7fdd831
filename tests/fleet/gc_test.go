package fleet

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// weir gc --bucket names what would go, removes it beside a running mirror, and with
// --prune-records the records of what is gone. A pull of that comes from upstream.
func TestCollectBucket(t *testing.T) {
	testutil.Long(t, "content leaves for 2.5 s before it is removed")
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	a, b := addImage(upstream, "a", content(mib, 21)), addImage(upstream, "b", content(mib, 22))
	server.Put("foreign/key", []byte("of another program"))
	w := harness.StartWeir(t, server.Config(`eviction_interval = "1s"`)+streamed+block(upstream))
	pull(t, w, a, "a")
	inBucket(t, server, 3, a.manifest, a.layer)
	pull(t, w, b, "b")
	inBucket(t, server, 6, b.manifest, b.layer)

	collect := func(args ...string) string {
		t.Helper()
		code, out := weir(t, append([]string{"gc", "--bucket", "--config", w.Config}, args...)...)
		if code != 0 {
			t.Errorf("weir gc --bucket %q: exit code %d\n%s", args, code, out)
		}
		return out
	}
	if code, out := weir(t, "gc", "--bucket", "--config", w.Config); code == 0 || !strings.Contains(out, "no limit is set, so there is nothing to evict") {
		t.Errorf("without a limit: exit code %d\n%s", code, out)
	}
	before := len(server.Keys("blobs/"))
	if out := collect("--dry-run", "--max-size", "0", "--prune-records"); !strings.Contains(out, "would remove 4 objects") || !strings.Contains(out, "kept 0 objects") ||
		!strings.Contains(out, "mirror/org/app:a") || !strings.Contains(out, "would remove tags: 2, links: 4, repositories: 1") {
		t.Errorf("a dry run printed\n%s", out)
	}
	if after := len(server.Keys("blobs/")); after != before {
		t.Errorf("a dry run left %d objects of %d", after, before)
	}
	out := collect("--max-size", "0", "--prune-records")
	if !strings.Contains(out, "removed 4 objects") || !strings.Contains(out, "mirror/org/app:b") || !strings.Contains(out, "removed tags: 2, links: 4, repositories: 1") {
		t.Errorf("weir gc --bucket printed\n%s", out)
	}
	if left := append(server.Keys("blobs/"), server.Keys("records/mirror/")...); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, there := server.Get("foreign/key"); !there {
		t.Error("a foreign key was removed")
	}
	pull(t, harness.StartWeir(t, server.Config()+streamed+block(upstream)), a, "a")
}
