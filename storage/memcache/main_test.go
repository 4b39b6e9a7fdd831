package memcache_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/storage/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDisk(t *testing.T) (s *disk.Store, root string) {
	t.Helper()
	root = t.TempDir()
	s, err := disk.Open(root, disk.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, root
}

// spoil replaces the file of a stored blob.
func spoil(t *testing.T, root string, dgst digest.Digest, content string) {
	t.Helper()
	path := filepath.Join(root, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded())
	must(t, os.WriteFile(path, []byte(content), 0o600))
}
