package disk_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, root string, opts disk.Options) *disk.Store {
	t.Helper()
	s, err := disk.Open(root, opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	for name, durability := range map[string]disk.Durability{"never": disk.Never, "behind": disk.Behind, "always": disk.Always} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Driver {
				return open(t, filepath.Join(t.TempDir(), "not", "there", "yet"), disk.Options{Durability: durability})
			})
		})
	}
	t.Run("by parts", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Driver {
			s := open(t, t.TempDir(), disk.Options{})
			s.LookByParts()
			return s
		})
	})
}

func TestLayout(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if err := s.Records().Put(t.Context(), "a/key", []byte("document")); err != nil {
		t.Fatal(err)
	}
	hex := dgst.Encoded()
	for path, want := range map[string]string{
		filepath.Join("blobs", "sha256", hex[:2], hex): "content",
		filepath.Join("records", "a", "key"):           fmt.Sprintf("weir-record-sha256 %x\ndocument", sha256.Sum256([]byte("document"))),
	} {
		if got, err := os.ReadFile(filepath.Join(root, path)); string(got) != want || err != nil {
			t.Errorf("%s holds %q, %v", path, got, err)
		}
	}
	err := filepath.WalkDir(filepath.Join(root), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root || strings.HasPrefix(path, filepath.Join(root, "tmp")) && !entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		isRecord := strings.HasPrefix(path, filepath.Join(root, "records")) && !entry.IsDir() // may be a key
		if err == nil && (info.Mode().Perm()&0o040 != 0) == isRecord {
			t.Errorf("%s is open or closed to the group: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Sendfile needs the file itself.
func TestContentIsAFile(t *testing.T) {
	s := open(t, t.TempDir(), disk.Options{})
	object, err := s.Open(t.Context(), storagetest.Commit(t, s, s.Spools(), []byte("content")))
	if err != nil {
		t.Fatal(err)
	}
	defer object.Content.Close()
	if _, ok := object.Content.(*os.File); !ok {
		t.Errorf("the content is a %T", object.Content)
	}
}

// A committed content is the spool's own file: there is no second copy.
func TestCommitDoesNotCopy(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	spool := storagetest.NewSpool(t, s.Spools(), []byte("content"))
	files, err := filepath.Glob(filepath.Join(root, "tmp", "*", "spool-*"))
	if len(files) != 1 || err != nil {
		t.Fatalf("%q, %v, want one spool", files, err)
	}
	before, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromString("content")
	if err := s.Commit(t.Context(), dgst, spool); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(blobPath(root, dgst))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the content is another file than the spool")
	}
}

// After a power cut without Sync a filesystem may keep a name and lose the
// bytes.
func TestCommitReplacesATruncatedFile(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if err := os.Truncate(blobPath(root, dgst), 3); err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

func TestCommitChecksTheLength(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	content := []byte("content")
	spool := storagetest.NewSpool(t, s.Spools(), content)
	files, _ := filepath.Glob(filepath.Join(root, "tmp", "*", "spool-*"))
	if err := os.Truncate(files[0], 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), digest.FromBytes(content), spool); err == nil {
		t.Error("Commit accepted a file that lost its end")
	}
	if _, err := s.Stat(t.Context(), digest.FromBytes(content)); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat: %v, want ErrNotExist", err)
	}
}

func TestGarbageIsIgnored(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	content := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	hex := digest.FromString("another").Encoded()
	shard := filepath.Join(root, "blobs", "sha256", content.Encoded()[:2])
	otherPrefix := "00" + content.Encoded()[2:] // a digest, in a place where nobody looks for it
	wrong := filepath.Join(root, "blobs", "sha256", "zz")
	directory := digest.FromString("a directory in a content's place")
	for _, dir := range []string{wrong, filepath.Join(root, "blobs", "md5", "aa"), filepath.Join(root, "lost+found"), blobPath(root, directory)} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{
		filepath.Join(shard, "x"), filepath.Join(shard, ".nfs0001"), filepath.Join(shard, content.Encoded()+"~"),
		filepath.Join(shard, otherPrefix), filepath.Join(wrong, hex), filepath.Join(root, "blobs", "README"), filepath.Join(root, "blobs", "md5", "aa", "aa"),
	} {
		if err := os.WriteFile(path, []byte("garbage"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "records", "link")); err != nil {
		t.Fatal(err)
	}

	again := open(t, root, disk.Options{})
	for entry, err := range again.All(t.Context()) {
		if err != nil || entry.Digest != content {
			t.Errorf("All lists %+v, %v", entry, err)
		}
	}
	for key, err := range again.Records().List(t.Context(), "") {
		t.Errorf("List lists %q, %v", key, err)
	}
	if _, err := again.Stat(t.Context(), directory); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of a directory: %v, want ErrNotExist", err)
	}
	if _, err := again.Open(t.Context(), directory); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Open of a directory: %v, want ErrNotExist", err)
	}
	if err := again.Delete(t.Context(), directory); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Delete of a directory: %v, want ErrNotExist", err)
	}
	waitForCount(t, again, 7, 1)
}

func TestReopen(t *testing.T) {
	root := t.TempDir()
	first, err := disk.Open(root, disk.Options{Durability: disk.Always})
	if err != nil {
		t.Fatal(err)
	}
	dgst := storagetest.Commit(t, first, first.Spools(), []byte("content"))
	if err := first.Records().Put(t.Context(), "key", []byte("document")); err != nil {
		t.Fatal(err)
	}
	spooled, err := first.Spools().Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(spooled.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 || err != nil {
		t.Errorf("Close left %v in tmp, %v", left, err)
	}
	second := open(t, root, disk.Options{})
	if got := storagetest.Read(t, second, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	if got, err := second.Records().Get(t.Context(), "key"); string(got) != "document" || err != nil {
		t.Errorf("Get = %q, %v", got, err)
	}
}

func TestSize(t *testing.T) {
	root := t.TempDir()
	first := open(t, root, disk.Options{})
	waitForCount(t, first, 0, 0)
	one := storagetest.Commit(t, first, first.Spools(), []byte("one"))
	storagetest.Commit(t, first, first.Spools(), []byte("one"))
	three := storagetest.Commit(t, first, first.Spools(), []byte("three"))
	wantSize(t, first, 8, 2)
	if err := os.Truncate(blobPath(root, three), 1); err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, first, first.Spools(), []byte("three")) // replaces 1 byte by 5
	wantSize(t, first, 12, 2)
	if err := os.Truncate(blobPath(root, three), 5); err != nil {
		t.Fatal(err)
	}

	second := open(t, root, disk.Options{})
	waitForCount(t, second, 8, 2)
	if err := second.Delete(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := second.Delete(t.Context(), one); !errors.Is(err, storage.ErrNotExist) {
		t.Fatal(err)
	}
	wantSize(t, second, 5, 1)
}

// What is committed and deleted while the store is being counted is counted
// once.
func TestSizeDuringTheCount(t *testing.T) {
	for range 20 {
		root := t.TempDir()
		s := open(t, root, disk.Options{})
		var committers sync.WaitGroup
		for i := range 4 {
			var digests []digest.Digest
			for j := range 25 {
				content := []byte{byte(i), byte(j)}
				spool := storagetest.NewSpool(t, s.Spools(), content)
				dgst := digest.FromBytes(content)
				digests = append(digests, dgst)
				committers.Go(func() {
					if err := s.Commit(t.Context(), dgst, spool); err != nil {
						t.Errorf("Commit: %v", err)
					}
				})
			}
			committers.Wait()
			if err := s.Delete(t.Context(), digests[i]); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		waitForCount(t, s, 2*96, 96)
	}
}

func TestWritable(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("Writable: %v", err)
	}
	if probes, _ := filepath.Glob(filepath.Join(root, "tmp", "*", "probe-*")); len(probes) != 0 {
		t.Errorf("Writable left %q", probes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Writable(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Writable: %v, want the context's error", err)
	}
}

// newLog returns a log and a logger that writes to it.
func newLog() (*testutil.LogBuffer, *slog.Logger) {
	log := new(testutil.LogBuffer)
	return log, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func waitForCount(t *testing.T, s *disk.Store, bytes, objects int64) {
	t.Helper()
	s.WaitForCount()
	wantSize(t, s, bytes, objects)
}

func wantSize(t *testing.T, s *disk.Store, bytes, objects int64) {
	t.Helper()
	if gotBytes, gotObjects := s.Size(); gotBytes != bytes || gotObjects != objects {
		t.Errorf("Size = %d bytes, %d objects, want %d, %d", gotBytes, gotObjects, bytes, objects)
	}
}

func blobPath(root string, dgst digest.Digest) string {
	return filepath.Join(root, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded())
}
