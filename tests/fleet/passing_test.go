package fleet

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// With a max_size of 0 a blob leaves the local tier as soon as it is in the bucket, whether it
// came from upstream or from there. Manifests stay.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(2*mib, 12))
	w := harness.StartWeir(t, server.Config()+"[blob_store.fs]\nmax_size = \"0\"\n"+streamed+block(upstream))
	gone := func() bool {
		for _, file := range w.Stored(t, "blobs") {
			if strings.HasSuffix(file, i.layer.Encoded()) {
				return false
			}
		}
		return true
	}
	pull(t, w, i, "1.0")
	inBucket(t, server, 3, i.manifest, i.layer)
	harness.Eventually(t, "the layer is not kept", gone)
	upstream.ResetRequests()
	server.Requests()
	pull(t, w, i, "1.0")
	harness.Eventually(t, "the layer is not kept after it came from the bucket", gone)
	if got := upstream.Requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %q, want one HEAD of the tag", got)
	}
	for _, request := range server.Requests() {
		if strings.Contains(request, i.manifest.Encoded()) {
			t.Errorf("a warm manifest cost %q", request)
		}
	}
	w.ExpectIntact(t)
}
