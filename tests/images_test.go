package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// change sends a request without a body about an image to the API.
func change(t *testing.T, w *harness.Weir, method, path, image string, headers ...string) (status int, document map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+apiPrefix+path+"/"+url.PathEscape(image), nil)
	harness.Must(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	harness.Must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	harness.Must(t, err)
	harness.Must(t, json.Unmarshal(body, &document))
	return resp.StatusCode, document
}

// An image is taken out down to its files, but for content that another image has, and the next
// pull fetches it again.
func TestAPIRemovesImages(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	shared := []byte("a layer of both")
	one, two := r.AddImage("org/app", "one", []byte("one"), shared), r.AddImage("org/app", "two", []byte("two"), shared)
	w := harness.StartWeir(t, block("mirror", r, "immutable_tags = true"))
	pull := func(tag, status string) {
		t.Helper()
		a := w.Get(t, manifestPath("mirror/org/app", tag))
		expect(t, tag, a, http.StatusOK, status)
		for _, dgst := range contentOf(t, a.Body) {
			expectContent(t, tag, w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
		}
	}
	pull("one", "")
	pull("two", "")
	harness.Eventually(t, "both images are stored", func() bool { return len(w.Stored(t, "blobs")) == 7 })
	status, document := change(t, w, http.MethodDelete, "images", "mirror/org/app:one")
	if status != http.StatusOK {
		t.Errorf("%d %v", status, document)
	}
	expectInside(t, document, map[string]string{"name": "mirror/org/app", "tags": "[one]", "manifests": "1", "contents": "3"})
	if got := w.Stored(t, "blobs"); len(got) != 4 {
		t.Errorf("left %q", got)
	}
	if status, document := change(t, w, http.MethodDelete, "images", "mirror/org/app:one"); status != http.StatusNotFound {
		t.Errorf("once more: %d %v", status, document)
	}
	r.ResetRequests()
	pull("two", "")
	if got := r.Requests(); len(got) != 0 {
		t.Errorf("the other image asked the upstream: %q", got)
	}
	pull("one", "")
	if got := r.Requests(); len(got) != 3 {
		t.Errorf("the upstream was asked %q, want the manifest, its configuration and its own layer", got)
	}
	harness.Eventually(t, "both images are stored again", func() bool { return len(w.Stored(t, "blobs")) == 7 })
	if status, document = change(t, w, http.MethodDelete, "images", "mirror/org/app@"+two.Digest.String()); status != http.StatusOK {
		t.Errorf("a digest: %d %v", status, document)
	}
	expectInside(t, document, map[string]string{"tags": "[two]", "contents": "3"})
	if status, document = change(t, w, http.MethodDelete, "images", "mirror/org/app"); status != http.StatusOK || len(w.Stored(t, "blobs")) != 0 {
		t.Errorf("the repository: %d %v, left %q", status, document, w.Stored(t, "blobs"))
	}
	if got := w.Get(t, apiPath("mirror/org/app", "")); got.Status != http.StatusNotFound {
		t.Errorf("the repository is told after its removal: %d %s", got.Status, got.Body)
	}
	pull("one", "")
	w.ExpectIntact(t)
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags/one")), map[string]string{"digest": one.Digest.String()})
}

// A removal during a pull breaks neither that pull nor the next ones, and the pull leaves nothing
// behind.
func TestAPIRemovesDuringPulls(t *testing.T) {
	t.Parallel()
	r, gate := upstreamtest.New(t), upstreamtest.NewGate()
	blob := addRandom(t, r, "org/app", mib, 1)
	r.AddImage("org/app", "v1", []byte("layer"))
	r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(512*kib, gate))
	w := harness.StartWeir(t, block("mirror", r))
	expect(t, "the manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
	pulling := w.Pull(t, blobPath("mirror/org/app", blob))
	harness.Eventually(t, "half of the content has come", func() bool {
		return inside(tell(t, w, apiPrefix+"downloads"), "downloads.0.state") == "running"
	})
	if status, document := change(t, w, http.MethodDelete, "images", "mirror/org/app"); status != http.StatusOK {
		t.Errorf("%d %v", status, document)
	}
	gate.Open()
	pulling.Whole(t, "the blob", blob)
	w.MetricIs(t, 0, "weir_downloads")
	if _, err := os.Stat(blobFile(w, blob)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the blob was stored after the removal: %v", err)
	}
	r.ClearFaults()
	expect(t, "the manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
	expectContent(t, "the blob", w.Get(t, blobPath("mirror/org/app", blob)), blob, "")
	w.ExpectIntact(t)
}

// Rules decide about removals as about other changes, and a client removes only that which it may
// pull.
func TestAPIRemovalFollowsTheRules(t *testing.T) {
	t.Parallel()
	const alice, bob = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA=="
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, "[auth]\nanonymous = true\n"+usersOf+"[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-change' && identity.username == 'bob'\"]\n"+
		blockOf("open", nil, at(r))+blockOf("closed", []string{`allow = ["bob"]`}, at(r))+blockOf("theirs", []string{`authorize = "upstream"`}, at(r)))
	for _, name := range []string{"open/org/app", "closed/org/app"} {
		expect(t, name, w.Get(t, manifestPath(name, "v1"), "Authorization", bob), http.StatusOK, "")
	}
	for _, c := range []struct {
		image string
		want  int
		as    []string
	}{
		{"open/org/app", 401, nil}, {"open/org/app", 403, []string{"Authorization", bob}}, {"closed/org/app", 404, []string{"Authorization", alice}},
		{"theirs/org/app", 404, []string{"Authorization", alice}}, {"open/org/app", 403, []string{"Authorization", alice, "Sec-Fetch-Site", "cross-site"}},
		{"open/org/app", 200, []string{"Authorization", alice}},
	} {
		if status, document := change(t, w, http.MethodDelete, "images", c.image, c.as...); status != c.want {
			t.Errorf("%s for %q: %d %v, want %d", c.image, c.as, status, document, c.want)
		}
	}
}

// A pinned image survives an eviction of all the rest, a restart, and weir gc, until it is unpinned.
func TestAPIPinsImages(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	pinned := r.AddImage("org/app", "pinned", random(t, mib, 1))
	dir := t.TempDir()
	config := block("mirror", r) + "[blob_store.fs]\nmax_size = \"8MiB\"\n"
	w := harness.StartWeirIn(t, dir, config)
	pull := func(tag string) {
		t.Helper()
		a := w.Get(t, manifestPath("mirror/org/app", tag))
		expect(t, tag, a, http.StatusOK, "")
		for _, dgst := range contentOf(t, a.Body) {
			expectContent(t, tag, w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
		}
	}
	pull("pinned")
	harness.Eventually(t, "the image is stored", func() bool { return len(w.Stored(t, "blobs")) == 3 })
	if status, document := change(t, w, http.MethodPut, "pins", "mirror/org/app:pinned"); status != http.StatusOK {
		t.Fatalf("%d %v", status, document)
	}
	expectInside(t, tell(t, w, apiPrefix+"pins"), map[string]string{
		"pins.0.image": "mirror/org/app:pinned", "pins.0.digest": pinned.Digest.String(), "pins.0.by": "127.0.0.1", "limit": fmt.Sprint(float64(4 * mib)),
	})
	if status, document := change(t, w, http.MethodDelete, "images", "mirror/org/app"); status != http.StatusConflict {
		t.Errorf("a removal: %d %v", status, document)
	}
	w.Terminate(t)
	w = harness.StartWeirIn(t, dir, config)
	for i := range uint64(10) {
		r.AddImage("org/app", "other", random(t, 2*mib, 2+i))
		pull("other")
	}
	r.ResetRequests()
	pull("pinned")
	if got := r.Requests(); len(got) != 1 {
		t.Errorf("the pinned image cost %q, want a HEAD of its tag", got)
	}
	expectResult(t, "gc", maintain(t, w, "gc", "--max-size", "0"), 0, "kept 3 objects")
	r.AddImage("org/app", "large", random(t, 5*mib, 99))
	pull("large")
	if status, document := change(t, w, http.MethodPut, "pins", "mirror/org/app:large"); status != http.StatusConflict {
		t.Errorf("an image that has no room among the pins: %d %v", status, document)
	}
	if status, document := change(t, w, http.MethodDelete, "pins", "mirror/org/app:pinned"); status != http.StatusOK {
		t.Errorf("%d %v", status, document)
	}
	if status, document := change(t, w, http.MethodDelete, "images", "mirror/org/app:pinned"); status != http.StatusOK {
		t.Errorf("%d %v", status, document)
	}
	w.ExpectIntact(t)
}
