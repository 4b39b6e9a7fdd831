package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// recordFlushes lists what the store flushes from now on, relative to its root
// and without random names.
func recordFlushes(s *disk.Store, root string) *[]string {
	flushed := new([]string)
	s.OnFlush(func(f *os.File) error {
		path := strings.TrimPrefix(f.Name(), root)
		if strings.HasPrefix(path, "/tmp/") {
			path, _, _ = strings.Cut(filepath.Base(path), "-")
		}
		*flushed = append(*flushed, path)
		return nil
	})
	return flushed
}

func TestSync(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Always})
	flushed := recordFlushes(s, root)
	expect := func(doing string, want ...string) {
		t.Helper()
		if !slices.Equal(*flushed, want) {
			t.Errorf("%s flushed %q, want %q", doing, *flushed, want)
		}
		*flushed = nil
	}
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	shard := "/blobs/sha256/" + dgst.Encoded()[:2]
	// Each directory is flushed when it has got a new entry.
	expect("Commit", "/blobs", "/blobs/sha256", shard)
	storagetest.Commit(t, s, s.Spools(), []byte("content"))
	expect("Commit of what is there", shard)
	if err := s.Records().Put(t.Context(), "a/b/key", nil); err != nil {
		t.Fatal(err)
	}
	expect("Put", "record", "/records", "/records/a", "/records/a/b")
	if err := s.Records().Put(t.Context(), "a/b/key", nil); err != nil {
		t.Fatal(err)
	}
	expect("Put of what is there", "record", "/records/a/b")

	s = open(t, root, disk.Options{Durability: disk.Never})
	flushed = recordFlushes(s, root)
	storagetest.Commit(t, s, s.Spools(), []byte("another"))
	if err := s.Records().Put(t.Context(), "another/key", nil); err != nil {
		t.Fatal(err)
	}
	expect("a store without Sync")
}

func TestSyncFails(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Always})
	s.WaitForCount()
	content := []byte("content")
	dgst := digest.FromBytes(content)
	shard := filepath.Dir(blobPath(root, dgst))
	s.OnFlush(func(f *os.File) error {
		if f.Name() == shard {
			return syscall.EIO
		}
		return nil
	})
	err := s.Commit(t.Context(), dgst, storagetest.NewSpool(t, s.Spools(), content))
	if !errors.Is(err, syscall.EIO) || reason(err) != disk.Damaged {
		t.Errorf("Commit: %v, want EIO with its reason", err)
	}
	wantSize(t, s, 7, 1) // whole, if not for certain durable
	if err := s.Commit(t.Context(), dgst, storagetest.NewSpool(t, s.Spools(), content)); !errors.Is(err, syscall.EIO) {
		t.Errorf("another Commit: %v, want EIO", err)
	}

	s.OnFlush(func(*os.File) error { return syscall.EIO })
	if err := s.Records().Put(t.Context(), "key", nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("Put: %v, want EIO", err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "tmp", "*", "record-*")); len(left) != 0 {
		t.Errorf("Put left %q", left)
	}

	// Not every filesystem can flush a directory.
	s.OnFlush(func(f *os.File) error {
		if info, err := f.Stat(); err != nil || info.IsDir() {
			return errors.Join(syscall.EINVAL, err)
		}
		return nil
	})
	if err := s.Commit(t.Context(), dgst, storagetest.NewSpool(t, s.Spools(), content)); err != nil {
		t.Errorf("Commit where directories cannot be flushed: %v", err)
	}
}

// A flush that takes long holds up no other content of the same directory.
func TestSlowFlushHoldsUpNoOtherContent(t *testing.T) {
	s := open(t, t.TempDir(), disk.Options{Durability: disk.Always})
	s.WaitForCount()
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	// Contents whose digests begin alike share a directory.
	var others [][]byte
	for i := 0; len(others) < 2; i++ {
		body := fmt.Appendf(nil, "content %d", i)
		if digest.FromBytes(body)[:9] == dgst[:9] {
			others = append(others, body)
		}
	}
	flushing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.OnFlush(func(f *os.File) error {
		if info, err := f.Stat(); err == nil && info.IsDir() {
			once.Do(func() {
				close(flushing)
				<-release
			})
		}
		return nil
	})
	var slow sync.WaitGroup
	slow.Go(func() { storagetest.Commit(t, s, s.Spools(), others[0]) })
	<-flushing
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Delete(t.Context(), dgst); err != nil {
			t.Error(err)
		}
		if _, objects := s.Size(); objects != 1 {
			t.Errorf("%d objects while one is being flushed and one was deleted, want 1", objects)
		}
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Error("a deletion waits for another content's flush")
	}
	close(release)
	<-done
	slow.Wait()
}

// A directory that another program has removed is made again.
func TestDirectoryVanishes(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Always})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if err := os.RemoveAll(filepath.Dir(blobPath(root, dgst))); err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}
