package harness

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// The keys of a Bucket's server.
const (
	BucketKey    = "weir-test"
	BucketSecret = "weir-test-secret"
)

// Bucket is a server of an object store, with one bucket that is named "mirror".
type Bucket struct {
	URL string
	Dir string // the objects of the bucket as files, by their keys
	*Process
}

// StartBucket starts versitygw, which keeps objects as files, and makes a bucket.
func StartBucket(t *testing.T) *Bucket {
	t.Helper()
	program := Tool(t, "s3", "versitygw")
	dir, addr := t.TempDir(), testutil.FreeAddr(t)
	b := &Bucket{URL: "http://" + addr, Dir: filepath.Join(dir, "objects", "mirror")}
	for _, made := range []string{b.Dir, filepath.Join(dir, "metadata")} {
		if err := os.MkdirAll(made, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	b.Process = NewProcess(t, "versitygw", func() *exec.Cmd {
		// Metadata in files of their own: not each filesystem has extended attributes.
		return exec.Command(program, "--access", BucketKey, "--secret", BucketSecret, "--port", addr, "--quiet", "--keep-alive",
			"posix", "--sidecar", filepath.Join(dir, "metadata"), filepath.Join(dir, "objects"))
	}, func(io.Reader) bool {
		for begun := time.Now(); time.Since(begun) < Patience; time.Sleep(20 * time.Millisecond) {
			if answer, err := http.Get(b.URL); err == nil {
				answer.Body.Close()
				return true
			}
		}
		return false
	})
	b.Start()
	return b
}

// Config is the table of the bucket in a configuration, with further settings, one line
// each.
func (b *Bucket) Config(settings string) string {
	return fmt.Sprintf("[blob_store.s3]\nendpoint = %q\nbucket = \"mirror\"\nregion = \"us-east-1\"\naccess_key_id = %q\nsecret_key = %q\n%s\n",
		b.URL, BucketKey, BucketSecret, settings)
}
