package disk_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// A commit that is under way while a flush fails does not count as durable with the next flush,
// which succeeds: the kernel reports lost bytes once.
func TestCommitBesideAFailedFlush(t *testing.T) {
	for name, lost := range map[string]bool{"its bytes are there": false, "its bytes are lost too": true} {
		t.Run(name, func(t *testing.T) { commitBesideAFailedFlush(t, lost) })
	}
}

func commitBesideAFailedFlush(t *testing.T, lost bool) {
	s, err := disk.Open(t.TempDir(), disk.Options{Durability: disk.Behind})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var failing atomic.Bool
	failing.Store(true)
	s.OnSyncfs(func() error {
		if failing.Swap(false) {
			return syscall.EIO
		}
		return nil
	})
	var synced atomic.Int32
	s.OnSync(func(*spool.Spool) error {
		synced.Add(1)
		if lost {
			return syscall.EIO
		}
		return nil
	})
	content := []byte("bytes that the disk lost")
	dgst := digest.FromBytes(content)
	sp := storagetest.NewSpool(t, s.Spools(), content)
	unlock, err := s.LockPath(dgst) // stands for a rename that waits for the journal
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Commit(t.Context(), dgst, sp) }()
	for { // until the commit has chosen the mode of its file, and made its directory
		if _, err := os.Lstat(filepath.Dir(s.PathOf(dgst))); err == nil {
			break
		}
		runtime.Gosched()
	}
	s.NoteRecord()
	s.Flush() // fails
	unlock()
	err = <-done
	if synced.Load() != 1 {
		t.Error("the file was not flushed by itself")
	}
	_, stat := os.Lstat(s.PathOf(dgst))
	if lost && (err == nil || stat == nil) || !lost && (err != nil || stat != nil) {
		t.Errorf("the commit: %v; the file: %v", err, stat)
	}
}

// A suspect whose place another file has taken is not an error: that file is opened.
func TestDiscardOfAReplacedSuspect(t *testing.T) {
	s, err := disk.Open(t.TempDir(), disk.Options{Durability: disk.Behind})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good := []byte("good content")
	dgst := digest.FromBytes(good)
	path := s.PathOf(dgst)
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "torn content")
	if err := os.Chmod(path, 0o640|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	torn, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(path+".new", string(good))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(t.Context(), dgst, torn); err != nil {
		t.Errorf("a replaced suspect: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(t.Context(), dgst, torn); err != nil {
		t.Errorf("a suspect that has gone: %v", err)
	}
}
