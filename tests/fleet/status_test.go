package fleet

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The status of the mirror that evicts from a bucket has the content of the bucket beside its limit. That of
// another mirror on the same bucket has none.
func TestStatusOfABucket(t *testing.T) {
	t.Parallel()
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	a := addImage(upstream, "a", content(3*mib, 1))
	config := bucket.Config("max_size = \"80MiB\"\neviction_interval = \"1s\"") + streamed + block(upstream)
	status := func(w *harness.Weir) *api.Bucket {
		t.Helper()
		var document api.Status
		if answer := w.Get(t, "/api/v1/status"); answer.Status != http.StatusOK {
			t.Fatalf("%d %s", answer.Status, answer.Body)
		} else {
			harness.Must(t, json.Unmarshal(answer.Body, &document))
		}
		return document.Store.Bucket
	}
	evicting := harness.StartWeir(t, config)
	harness.Eventually(t, "the mirror has listed the bucket", func() bool { return status(evicting) != nil })
	if empty := status(evicting); empty.Objects != 0 || empty.Limit != 80*mib || empty.Listed.IsZero() {
		t.Errorf("the bucket is empty, and the status says %+v", empty)
	}
	pull(t, evicting, a, "a")
	harness.Eventually(t, "the image counts", func() bool {
		now := status(evicting)
		return now != nil && now.Objects == 2 && now.Bytes >= 3*mib // a manifest and its layer
	})
	other := harness.StartWeir(t, config)
	pull(t, other, a, "a")
	if of := status(other); of != nil {
		t.Errorf("a mirror that does not evict says %+v", of)
	}
}
