package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A client asks for lists and content that it invents. Such requests left a file or
// directories each, for ever. The only record is that of the tags.
func TestInventedQuestionsLeaveNothing(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	for i := range 30 {
		random := digest.FromString(fmt.Sprint(i)).String()
		for path, want := range map[string]int{
			fmt.Sprintf("/v2/mirror/org/app/tags/list?x=%d", i):                             http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/app/tags/list?n=%d", i+1):                           http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/app/tags/list?last=%d", i):                          http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/none%d/tags/list", i):                               http.StatusNotFound,
			"/v2/mirror/org/app/referrers/" + random:                                        http.StatusOK,
			"/v2/mirror/org/app/referrers/" + random + "?artifactType=application/" + "x":   http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/none%d/referrers/%s?artifactType=%d", i, random, i): http.StatusOK,
			manifestPath(fmt.Sprint("mirror/org/none", i), "v1"):                            http.StatusNotFound,
			blobPath(fmt.Sprint("mirror/org/none", i), digest.Digest(random)):               http.StatusNotFound,
		} {
			expect(t, path, w.Get(t, path), want, "")
		}
	}
	for _, asked := range upstream.Requests() {
		if strings.Contains(asked, "x=") {
			t.Fatalf("the upstream was asked %s", asked)
		}
	}
	var all []string
	for _, file := range files(t, dir) {
		if strings.Contains(file, "/records/") {
			all = append(all, file)
		}
	}
	if len(all) > 8 {
		t.Errorf("%d files and directories of records, such as %q", len(all), all[:8])
	}
}

// A store that has more records than its share, as an attack on an older version has left
// them, is trimmed behind the first requests: the oldest records go, with their
// directories. Before, 4,000 records of 1.2 MB stayed for ever beside max_size.
func TestRecordsAreBounded(t *testing.T) {
	testutil.Long(t, "writes records without number")
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	dir := t.TempDir()
	config := block("mirror", upstream, "tag_ttl = \"1h\"") + "[blob_store.fs]\nmax_size = \"16MiB\"\n"
	w := harness.StartWeirIn(t, dir, config)
	w.Logs(t, "indexed the content of the store") // a manifest before that is stored behind its answer
	expectContent(t, "cold", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	if code := w.Terminate(t); code != 0 {
		t.Fatalf("exit %d", code)
	}
	records := filepath.Join(recordsRoot(t, dir), "mirror", "org")
	old := time.Now().Add(-time.Hour)
	for i := range 4000 {
		below := filepath.Join(records, fmt.Sprint("none", i), "_documents", "tags")
		harness.Must(t, os.MkdirAll(below, 0o750))
		path := filepath.Join(below, strings.Repeat("0", 64))
		harness.Must(t, os.WriteFile(path, make([]byte, 300), 0o640))
		harness.Must(t, os.Chtimes(path, old, old))
	}
	w = harness.StartWeirIn(t, dir, config)
	harness.Eventually(t, "the records are within their share", func() bool {
		left, err := os.ReadDir(records)
		harness.Must(t, err)
		return len(left) < 3500
	})
	upstream.ResetRequests()
	expectContent(t, "the record in use", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusHit)
	expectWire(t, upstream, "the record in use")
}

// Records count in min_free as content does. An upstream in which each tag exists, asked
// for one after the other, cannot fill a small filesystem with records: the oldest go,
// and content stays.
func TestRecordsLeaveMinFree(t *testing.T) {
	testutil.Long(t, "writes records without number")
	t.Parallel()
	const asked = 1400 // ten times the records that 10 MiB beyond min_free allow
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	layer := addRandom(t, upstream, "org/app", mib, 66000)
	hostile := upstreamtest.New(t)
	hostile.AddImage("org/app", "v1", []byte("any"))
	endless := everyTag(t, hostile)
	w := harness.StartWeirIn(t, onTmpfs(t, "14m"), block("mirror", upstream, "tag_ttl = \"1h\"")+
		blockOf("hostile", nil, []string{fmt.Sprintf("url = %q", endless)})+"[blob_store.fs]\nmin_free = \"4MiB\"\n")
	expectContent(t, "blob", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusStored)
	for i := range asked {
		expect(t, "tag", w.Get(t, manifestPath("hostile/org/app", fmt.Sprint("tag", i))), http.StatusOK, "")
		if i%200 == 0 {
			expectContent(t, "tag in use", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, "")
		}
	}
	root := filepath.Join(w.Data, "records")
	harness.Eventually(t, "the records are within their share", func() bool { return len(filesBelow(t, root)) <= 160 })
	var fs syscall.Statfs_t
	harness.Must(t, syscall.Statfs(w.Data, &fs))
	if free := int64(fs.Bavail) * fs.Bsize; free < 4*mib {
		t.Errorf("%d bytes are free", free)
	}
	// The other block keeps its records, though they are older.
	expectContent(t, "tag in use", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusHit)
	expectContent(t, "content", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusHit)
	expect(t, "the last tag", w.Get(t, manifestPath("hostile/org/app", fmt.Sprint("tag", asked-1))), http.StatusOK, "")
}

// filesBelow returns the files below a directory.
func filesBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	harness.Must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		if os.IsNotExist(err) { // it has just gone
			return nil
		}
		return err
	}))
	return files
}

// everyTag is a registry in which each tag names the manifest of another one's v1.
func everyTag(t *testing.T, of *upstreamtest.Registry) (url string) {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(of.URL)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ref, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && strings.HasPrefix(ref, "tag") {
			r.URL.Path = path + "/manifests/v1"
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// recordsRoot returns the directory of the records below a test's directory.
func recordsRoot(t *testing.T, dir string) string {
	t.Helper()
	for _, file := range files(t, dir) {
		if filepath.Base(file) == "records" {
			return file
		}
	}
	t.Fatal("no records")
	return ""
}
