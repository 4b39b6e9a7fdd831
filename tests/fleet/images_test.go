package fleet

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// remove takes an image out by the API.
func remove(t *testing.T, w *harness.Weir, image string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, w.URL+"/api/v1/images/"+url.PathEscape(image), nil)
	harness.Must(t, err)
	resp, err := http.DefaultClient.Do(req)
	harness.Must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", image, resp.StatusCode, body, err)
	}
}

// An image is taken out of the bucket too, without the content of another one, and comes back with
// the next pull. Another mirror of the bucket serves it then.
func TestRemoveFromBucket(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	a, b := addImage(upstream, "a", content(mib, 31)), addImage(upstream, "b", content(mib, 32))
	config := server.Config(`records_ttl = "1s"`) + streamed + block(upstream)
	w, other := harness.StartWeir(t, config), harness.StartWeir(t, config)
	pull(t, w, a, "a")
	inBucket(t, server, 3, a.manifest, a.layer)
	pull(t, w, b, "b")
	inBucket(t, server, 6, b.manifest, b.layer)
	remove(t, w, "mirror/org/app:a")
	if keys := strings.Join(server.Keys("blobs/"), " "); strings.Contains(keys, a.layer.Encoded()) || strings.Contains(keys, a.manifest.Encoded()) || !strings.Contains(keys, b.layer.Encoded()) {
		t.Errorf("the bucket has %s", keys)
	}
	harness.Eventually(t, "the records are gone from the bucket", func() bool {
		keys := strings.Join(server.Keys("records/"), " ")
		return !strings.Contains(keys, a.layer.Encoded()) && !strings.Contains(keys, a.manifest.Encoded()) && !strings.Contains(keys, "_tags/a") && strings.Contains(keys, "_tags/b")
	})
	pull(t, other, a, "a")
	inBucket(t, server, 6, a.manifest, a.layer)
	pull(t, w, a, "a")
	w.ExpectIntact(t)
	other.ExpectIntact(t)
}

// While clients are redirected to the bucket, an object that they may be on their way to stays. A
// repository that possesses it again by the end of that time keeps it.
func TestRemoveBesideRedirects(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	a := addImage(upstream, "a", content(mib, 33))
	w := harness.StartWeir(t, server.Config()+block(upstream))
	pull(t, w, a, "a")
	inBucket(t, server, 3, a.manifest, a.layer)
	remove(t, w, "mirror/org/app:a")
	if keys := strings.Join(server.Keys("blobs/"), " "); !strings.Contains(keys, a.layer.Encoded()) {
		t.Errorf("the bucket has %s", keys)
	}
	pull(t, w, a, "a")
	if code := w.Terminate(t); code != 0 { // a removal that waits does not hold it up
		t.Errorf("exit code %d", code)
	}
}
