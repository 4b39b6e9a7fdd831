package tests

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// recordedPulls returns the pulls of a repository in the records of a mirror that has ended, and
// the number of these records.
func recordedPulls(t *testing.T, dir string, repo storage.RepoID) (sum catalog.RepositoryPulls, records int) {
	t.Helper()
	store, err := disk.Open(dir, disk.Options{})
	harness.Must(t, err)
	defer store.Close()
	sum, err = catalog.New(store.Records(), catalog.Options{}).Pulls(t.Context(), repo)
	harness.Must(t, err)
	for key, err := range store.Records().List(t.Context(), "") {
		harness.Must(t, err)
		if strings.Contains(key, "/_pulls/") {
			records++
		}
	}
	return sum, records
}

// Pulls are counted in the records of their repository, and a restart goes on counting. HEADs,
// refused requests, blobs and weir warm are no pulls.
func TestPullsAreCounted(t *testing.T) {
	t.Parallel()
	upstream, dir := upstreamtest.New(t), t.TempDir()
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	blob := upstream.AddRandomBlob("org/app", 1000, 1)
	for range 2 {
		w := harness.StartWeirIn(t, dir, block("mirror", upstream))
		expect(t, "by tag", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
		expect(t, "by digest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), http.StatusOK, "")
		expect(t, "HEAD", w.Do(t, http.MethodHead, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
		expect(t, "the same", w.Get(t, manifestPath("mirror/org/app", "v1"), "If-None-Match", `"`+image.Digest.String()+`"`), http.StatusNotModified, "")
		expect(t, "missing", w.Get(t, manifestPath("mirror/org/app", "v2")), http.StatusNotFound, "")
		expect(t, "warming", w.Get(t, manifestPath("mirror/org/app", "v1"), "User-Agent", "weir-warm/1"), http.StatusOK, "")
		expect(t, "blob", w.Get(t, blobPath("mirror/org/app", blob)), http.StatusOK, "")
		if code := w.Terminate(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	got, records := recordedPulls(t, filepath.Join(dir, "data"), storage.RepoID{Namespace: "mirror", Name: "org/app"})
	if records != 1 || got.All.Total != 4 || got.Tags["v1"].Total != 2 || got.Images[image.Digest].Total != 4 || len(got.Tags) != 1 {
		t.Errorf("%d records: %+v", records, got)
	}
	if clients := got.All.Clients; len(clients) != 1 || clients[0].Name != "127.0.0.1" {
		t.Errorf("the clients are %+v", clients)
	}
}
