package tests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A clock ran ahead by years while the mirror recorded a tag and the use of content, and
// was then set right.
func TestClockThatRanAhead(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("app", "v1", []byte("old"))
	data := filepath.Join(t.TempDir(), "data")
	config := fmt.Sprintf("[blob_store.fs]\nroot_dir = %q\n", data) + block("mirror", upstream, `tag_ttl = "1h"`)
	first := harness.StartWeir(t, config)
	expect(t, "cold", first.Get(t, manifestPath("mirror/app", "v1")), http.StatusOK, "")
	if code := first.Terminate(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	upstream.ResetRequests()

	future, changed := time.Now().AddDate(20, 0, 0), 0
	checked := regexp.MustCompile(`"checked":"[^"]*"`)
	harness.Must(t, filepath.WalkDir(data, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(path, "/records/") && checked.Match(content) {
			changed++
			_, document, _ := bytes.Cut(content, []byte("\n")) // behind its checksum
			document = checked.ReplaceAll(document, fmt.Appendf(nil, `"checked":%q`, future.Format(time.RFC3339Nano)))
			if err := os.WriteFile(path, fmt.Appendf(nil, "weir-record-sha256 %x\n%s", sha256.Sum256(document), document), 0o600); err != nil {
				return err
			}
		}
		return os.Chtimes(path, future, future)
	}))
	if changed != 1 {
		t.Fatalf("%d records were changed, want that of the tag", changed)
	}
	moved := upstream.AddImage("app", "v1", []byte("new"))
	w := harness.StartWeir(t, config)
	for _, status := range []string{"weir; fwd=stale", "weir; hit"} { // the record has the right time from then on
		a := w.Get(t, manifestPath("mirror/app", "v1"))
		expect(t, status, a, http.StatusOK, "")
		if got := a.Header.Get("Docker-Content-Digest"); got != moved.Digest.String() || a.Header.Get("Cache-Status") != status {
			t.Errorf("the tag is %s (%s), want %s (%s)", got, a.Header.Get("Cache-Status"), moved.Digest, status)
		}
	}
	expectWire(t, upstream, "after the clock was set right", "HEAD /v2/app/manifests/v1 200", "GET "+manifestPath("app", moved.Digest.String())+" 200")
	// Content of the future is not unused for long: gc keeps it.
	expectResult(t, "gc", maintain(t, w, "gc", "--max-unused", "1h"), 0, "removed 0 objects")
}
