package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// mountTmpfs mounts a small filesystem, which needs root, as in CI.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("weir-test", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mounting a tmpfs (run this test as root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// fill creates empty files in dir until there is no inode left, and returns
// their paths.
func fill(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	for {
		path := filepath.Join(dir, fmt.Sprintf("filler-%d", len(paths)))
		err := os.WriteFile(path, nil, 0o600)
		if errors.Is(err, syscall.ENOSPC) {
			return paths
		}
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
}

// A Commit that has no room for its directory fails without a trace, and
// succeeds once there is room.
func TestCommitWithoutSpaceForItsDirectory(t *testing.T) {
	root := mountTmpfs(t, "nr_inodes=64")
	s := open(t, root, disk.Options{Durability: disk.Always})
	s.WaitForCount()
	content := bytes.Repeat([]byte("x"), 100)
	dgst := digest.FromBytes(content)
	spool := storagetest.NewSpool(t, s.Spools(), content)
	filler := fill(t, root)

	err := s.Commit(t.Context(), dgst, spool)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), root) || reason(err) != disk.Full {
		t.Errorf("Commit: %v, want ENOSPC with the path and its reason", err)
	}
	if _, err := s.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat: %v, want ErrNotExist", err)
	}
	r, err := spool.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); !bytes.Equal(got, content) || err != nil {
		t.Errorf("the spool reads %d bytes, %v after a failed Commit", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wantSize(t, s, 0, 0)

	for _, path := range filler {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(t.Context(), dgst, spool); err != nil {
		t.Errorf("Commit with space again: %v", err)
	}
	wantSize(t, s, 100, 1)
}

// A record that does not fit leaves its predecessor in place, and nothing else.
func TestPutWithoutSpace(t *testing.T) {
	root := mountTmpfs(t, "size=64k")
	s := open(t, root, disk.Options{})
	if err := s.Records().Put(t.Context(), "key", []byte("old")); err != nil {
		t.Fatal(err)
	}
	err := s.Records().Put(t.Context(), "key", bytes.Repeat([]byte("x"), 1<<20))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), root) {
		t.Errorf("Put: %v, want ENOSPC with the path", err)
	}
	if got, err := s.Records().Get(t.Context(), "key"); string(got) != "old" || err != nil {
		t.Errorf("Get = %q, %v, want the old document", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "tmp", "*", "record-*")); len(left) != 0 {
		t.Errorf("Put left %q", left)
	}
	if err := s.Records().Put(t.Context(), "key", []byte("new")); err != nil {
		t.Errorf("Put of what fits: %v", err)
	}
}

func TestOpenOnAReadOnlyFilesystem(t *testing.T) {
	root := mountTmpfs(t, "size=1m")
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", root, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, state := range []string{"empty", "in use before"} {
		remount(syscall.MS_RDONLY)
		_, err := disk.Open(root, disk.Options{})
		if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), root) || reason(err) != disk.ReadOnly {
			t.Errorf("Open of a root that is %s: %v, want EROFS with the path and its reason", state, err)
		}
		remount(0)
		s, err := disk.Open(root, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoRoot(t *testing.T) {
	if s, err := disk.Open("", disk.Options{}); !errors.Is(err, disk.ErrNoRoot) {
		t.Errorf("Open = %v, %v, want ErrNoRoot", s, err)
	}
}

func TestRootIsAFile(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(root, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	s, err := disk.Open(root, disk.Options{})
	if !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), root) {
		t.Errorf("Open = %v, %v, want ENOTDIR with the path", s, err)
	}
}

// A root that vanishes is an error everywhere, and is not made again: with a
// volume that was unmounted the store would fill the filesystem beneath it.
func TestRootVanishes(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	s := open(t, root, disk.Options{})
	s.WaitForCount()
	spool := storagetest.NewSpool(t, s.Spools(), []byte("content"))
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(root, moved); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Rename(moved, root); err != nil {
			t.Error(err)
		}
	}()
	var allErr, listErr error
	for _, allErr = range s.All(t.Context()) {
	}
	for _, listErr = range s.Records().List(t.Context(), "") {
	}
	for doing, err := range map[string]error{
		"Commit":   s.Commit(t.Context(), digest.FromString("content"), spool),
		"Put":      s.Records().Put(t.Context(), "key", nil),
		"Writable": s.Writable(t.Context()),
		"All":      allErr,
		"List":     listErr,
	} {
		if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrNotExist) || reason(err) != disk.Vanished {
			t.Errorf("%s: %v, want fs.ErrNotExist with its reason", doing, err)
		}
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root was made again: %v", err)
	}
}

// A directory in the place of a blob, with or without files in it, is moved away.
func TestADirectoryInTheWay(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	dgst := digest.FromString("content")
	if err := os.MkdirAll(blobPath(root, dgst), 0o750); err != nil {
		t.Fatal(err)
	}
	err := s.Commit(t.Context(), dgst, storagetest.NewSpool(t, s.Spools(), []byte("content")))
	if err != nil {
		t.Errorf("Commit: %v", err)
	}
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "tmp", "*", "commit-*")); len(left) != 0 {
		t.Errorf("Commit left %q", left)
	}
}

// reason returns the reason of a failure, which decides about the advice.
func reason(err error) disk.Reason {
	if failed, ok := errors.AsType[*disk.Error](err); ok {
		return failed.Reason
	}
	return disk.Other
}
