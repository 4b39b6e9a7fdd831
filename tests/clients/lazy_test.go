package clients

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A lazy puller mounts a layer before it has it, and reads small ranges all over
// it. Each is answered at once, here while the download is held up near its
// beginning, and the layer is downloaded once beside that.
func TestLazyPuller(t *testing.T) {
	testutil.Long(t, "reads a hundred ranges of a large blob")
	const size, ranges, length = 32 << 20, 100, 4 << 10
	const first = 4 << 20 // a range nearer than this to the download waits for it
	upstream := upstreamtest.New(t)
	layer := upstream.AddRandomBlob("org/app", size, 1)
	gate := upstreamtest.NewGate()
	whole := func(r *http.Request) bool { return upstreamtest.Blobs(r) && r.Header.Get("Range") == "" }
	upstream.Fault(whole, upstreamtest.StallAfter(1<<20, gate)).Times(1)
	w := harness.StartWeir(t, fmt.Sprintf("[repository.mirror]\n[[repository.mirror.upstream]]\nurl = %q\nsegments = 1\n", upstream.URL))
	path := "/v2/mirror/org/app/blobs/" + layer.String()
	content, err := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	harness.Must(t, err)

	// From the end, where the layer's own index is, to the beginning.
	want := []string{"GET /v2/org/app/blobs/" + layer.String() + " 200"}
	for n := range ranges {
		from := size - length - n*(size-first)/ranges
		asked := fmt.Sprintf("bytes=%d-%d", from, from+length-1)
		a := w.Get(t, path, "Range", asked)
		if a.Status != http.StatusPartialContent || !bytes.Equal(a.Body, content[from:from+length]) {
			t.Fatalf("%s: %d with %d bytes, error %v", asked, a.Status, len(a.Body), a.Err)
		}
		want = append(want, "GET /v2/org/app/blobs/"+layer.String()+" "+asked+" 206")
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := gate.Arrived(ctx, 1); err != nil {
		t.Fatalf("the layer's download: %v", err)
	}
	gate.Open()
	w.MetricIs(t, 0, "weir_downloads")

	got := upstream.Requests()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the upstream saw other requests than one for the layer and each range's (-want +got):\n%s", diff)
	}
	if bytes := w.Metric(t, "weir_upstream_bytes_total"); bytes > size*1.1+ranges*length {
		t.Errorf("%.0f bytes from upstream, of a layer of %d and %d ranges of %d", bytes, size, ranges, length)
	}
	if a := w.Get(t, path); a.Err != nil || !bytes.Equal(a.Body, content) {
		t.Errorf("the layer came with %d bytes, error %v", len(a.Body), a.Err)
	}
	if after := upstream.Requests(); len(after) != len(want) {
		t.Errorf("the layer was not stored: %d more requests", len(after)-len(want))
	}
}
