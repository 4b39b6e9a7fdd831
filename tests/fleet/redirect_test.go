package fleet

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A client that follows redirects gets a blob from a real server of an object store by a
// presigned URL: the mirror sends no byte of it.
func TestRedirectToRealServer(t *testing.T) {
	t.Parallel()
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	layer := content(3*mib, 11)
	i := addImage(upstream, "1.0", layer)
	w := harness.StartWeir(t, bucket.Config("key_prefix = \"weir=1/._-\"\nredirect_endpoint = \""+strings.Replace(bucket.URL, "127.0.0.1", "localhost", 1)+"\"")+block(upstream))
	pull(t, w, i, "1.0")
	w.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	harness.Eventually(t, "a client is sent to the bucket", func() bool {
		answer := w.Do(t, http.MethodGet, i.layerPath())
		return answer.Status == http.StatusTemporaryRedirect
	})
	if answer := w.Do(t, http.MethodHead, i.layerPath()); answer.Status != http.StatusOK {
		t.Errorf("HEAD: %d", answer.Status)
	}
	if answer := w.Get(t, i.layerPath(), "X-Angos-No-Redirect", "1"); answer.Status != http.StatusOK || string(answer.Body) != string(layer) {
		t.Errorf("with X-Angos-No-Redirect: %d, %d bytes", answer.Status, len(answer.Body))
	}
	location := w.Do(t, http.MethodGet, i.layerPath()).Header.Get("Location")
	if !strings.HasPrefix(location, "http://localhost:") {
		t.Errorf("the place is %q", location)
	}
	answer, err := http.Get(location)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.ContentLength != int64(len(layer)) {
		t.Errorf("the bucket: %s, %d bytes", answer.Status, answer.ContentLength)
	}
}
