package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// foreign are the files that another program may put in the place of a file of the
// store, and that the store must neither follow, nor wait for, nor serve.
var foreign = map[string]func(path string) error{
	"link to a file":          func(path string) error { return os.Symlink("/etc/passwd", path) },
	"link to nothing":         func(path string) error { return os.Symlink("/does/not/exist", path) },
	"link to itself":          func(path string) error { return os.Symlink(filepath.Base(path), path) },
	"link to a directory":     func(path string) error { return os.Symlink("/etc", path) },
	"link to a sibling":       func(path string) error { return linkToSibling(path) },
	"pipe":                    func(path string) error { return syscall.Mkfifo(path, 0o666) },
	"socket":                  listen,
	"device that never ends":  func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|5) }, // /dev/zero
	"device without a driver": func(path string) error { return syscall.Mknod(path, syscall.S_IFBLK|0o666, 240<<8) },
	"directory":               func(path string) error { return os.Mkdir(path, 0o755) },
	"directory with files":    func(path string) error { return os.MkdirAll(filepath.Join(path, "a", "b"), 0o755) },
}

func linkToSibling(path string) error {
	sibling := path + "~"
	return errors.Join(os.WriteFile(sibling, []byte("another file"), 0o644), os.Symlink(sibling, path))
}

// listen leaves a socket behind whose server has ended.
func listen(path string) error {
	// The path may be longer than that of a socket can be.
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s")})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return errors.Join(l.Close(), os.Rename(filepath.Join(dir, "s"), path))
}

type opener func(*testing.T, string, disk.Options) *disk.Store

// eachWay runs a test of stores whose paths the kernel looks at, and of stores that do so
// themselves.
func eachWay(t *testing.T, test func(*testing.T, opener)) {
	t.Run("by the kernel", func(t *testing.T) { test(t, open) })
	t.Run("by parts", func(t *testing.T) {
		test(t, func(t *testing.T, root string, opts disk.Options) *disk.Store {
			s := open(t, root, opts)
			s.LookByParts()
			return s
		})
	})
}

func TestForeignContent(t *testing.T) { eachWay(t, testForeignContent) }

func testForeignContent(t *testing.T, open opener) {
	for name, plant := range foreign {
		t.Run(name, func(t *testing.T) {
			root, log := t.TempDir(), new(testutil.LogBuffer)
			s := open(t, root, disk.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
			s.WaitForCount()
			dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
			path := blobPath(root, dgst)
			if err := errors.Join(os.Remove(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if object, err := s.Open(t.Context(), dgst); !errors.Is(err, storage.ErrUnreadable) || !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Open = %v, %v, want ErrUnreadable", object, err)
				}
			}
			if n := log.Count("cannot read a file of the store", path, "user="); n != 1 {
				t.Errorf("%d lines in the log, want 1: %s", n, log)
			}
			for entry, err := range s.All(t.Context()) {
				t.Errorf("All lists %v, %v", entry, err)
			}
			storagetest.Commit(t, s, s.Spools(), []byte("content"))
			if got := storagetest.Read(t, s, dgst); string(got) != "content" {
				t.Errorf("read %q after the next commit", got)
			}
		})
	}
}

// A record that cannot be read counts as absent, and the next one replaces it.
func TestForeignRecord(t *testing.T) { eachWay(t, testForeignRecord) }

func testForeignRecord(t *testing.T, open opener) {
	plants := map[string]func(path string) error{
		// Its size is no bound for reading: a file without blocks takes no space.
		"huge and sparse": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o640), os.Truncate(path, 1<<40))
		},
		"just too large": func(path string) error { return os.WriteFile(path, make([]byte, 16<<20+1), 0o640) },
	}
	for name, plant := range foreign {
		plants[name] = plant
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			root, log := t.TempDir(), new(testutil.LogBuffer)
			s := open(t, root, disk.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
			const key = "docker.io/library/app/_tags/latest"
			path := filepath.Join(root, "records", key)
			if err := s.Records().Put(t.Context(), key, []byte("a")); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Remove(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if got, err := s.Records().Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Get = %q, %v, want ErrNotExist", got, err)
				}
			}
			// A directory is where a longer key would lie, so that it is no surprise.
			if n := log.Count("cannot read a file of the store", path, "user="); n != 1 && !strings.HasPrefix(name, "directory") {
				t.Errorf("%d lines in the log, want 1: %s", n, log)
			}
			if err := s.Records().Put(t.Context(), key, []byte("b")); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Records().Get(t.Context(), key); string(got) != "b" || err != nil {
				t.Errorf("Get = %q, %v after the next Put", got, err)
			}
		})
	}
}

// A file in the place of a directory is moved away too, and so is a link.
func TestForeignDirectory(t *testing.T) { eachWay(t, testForeignDirectory) }

func testForeignDirectory(t *testing.T, open opener) {
	for name, plant := range map[string]func(path string) error{
		"file":            func(path string) error { return os.WriteFile(path, []byte("foreign"), 0o644) },
		"pipe":            foreign["pipe"],
		"link to nothing": foreign["link to nothing"],
		"link to itself":  foreign["link to itself"],
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root, disk.Options{Durability: disk.Always})
			dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
			const key = "docker.io/library/app/_tags/latest"
			if err := s.Records().Put(t.Context(), key, []byte("a")); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{filepath.Dir(blobPath(root, dgst)), filepath.Join(root, "records", "docker.io", "library")} {
				if err := errors.Join(os.RemoveAll(dir), plant(dir)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("Open: %v, want ErrNotExist", err)
			}
			if _, err := s.Records().Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("Get: %v, want ErrNotExist", err)
			}
			storagetest.Commit(t, s, s.Spools(), []byte("content"))
			if got := storagetest.Read(t, s, dgst); string(got) != "content" {
				t.Errorf("read %q", got)
			}
			if err := s.Records().Put(t.Context(), key, []byte("b")); err != nil {
				t.Error(err)
			}
			if kept, _ := os.ReadDir(filepath.Join(root, "quarantine")); len(kept) != 2 {
				t.Errorf("in quarantine: %v, want both files", kept)
			}
		})
	}
}

// A link to another directory is not followed, whatever that has below the same names.
func TestLinkedDirectoryIsNotFollowed(t *testing.T) { eachWay(t, testLinkedDirectory) }

func testLinkedDirectory(t *testing.T, open opener) {
	const key = "docker.io/library/app/_tags/latest"
	for _, linked := range []string{"blobs/sha256/%s", "records/docker.io", "records/docker.io/library/app", "records/docker.io/library/app/_tags"} {
		t.Run(linked, func(t *testing.T) {
			root, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
			s := open(t, root, disk.Options{Durability: disk.Behind})
			dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
			if err := s.Records().Put(t.Context(), key, []byte("a")); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(root, strings.Replace(linked, "%s", dgst.Encoded()[:2], 1))
			if err := errors.Join(os.Rename(dir, elsewhere), os.Symlink(elsewhere, dir)); err != nil {
				t.Fatal(err)
			}
			before := tree(t, elsewhere)
			if strings.HasPrefix(linked, "blobs") {
				if _, err := s.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Open: %v, want ErrNotExist", err)
				}
				if err := s.Delete(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Delete: %v, want ErrNotExist", err)
				}
			} else {
				if got, err := s.Records().Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Get = %q, %v, want ErrNotExist", got, err)
				}
				if err := s.Records().Delete(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Delete: %v, want ErrNotExist", err)
				}
				if err := s.Records().Put(t.Context(), key, []byte("b")); err != nil {
					t.Error(err)
				}
				if got, err := s.Records().Get(t.Context(), key); string(got) != "b" || err != nil {
					t.Errorf("Get = %q, %v after the next Put", got, err)
				}
			}
			if after := tree(t, elsewhere); after != before {
				t.Errorf("elsewhere was\n%sand is\n%s", before, after)
			}
		})
	}
}

// tree returns the paths and blobs of the files below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	all := new(strings.Builder)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		fmt.Fprintf(all, "%s: %q\n", path, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// A root below a link is the operator's choice: the store looks at the paths below it by
// itself. It does so too if a link takes the place of a directory above the root later.
func TestRootBelowALink(t *testing.T) {
	t.Run("from the start", func(t *testing.T) {
		above := t.TempDir()
		real, link := filepath.Join(above, "real"), filepath.Join(above, "link")
		if err := errors.Join(os.Mkdir(real, 0o750), os.Symlink(real, link)); err != nil {
			t.Fatal(err)
		}
		s := open(t, filepath.Join(link, "root"), disk.Options{})
		works(t, s)
		if s.LookByParts() {
			t.Error("the kernel opens a root below a link although it refuses links")
		}
	})
	t.Run("later", func(t *testing.T) {
		above := t.TempDir()
		real, moved := filepath.Join(above, "real"), filepath.Join(above, "moved")
		s := open(t, filepath.Join(real, "root"), disk.Options{})
		works(t, s)
		if err := errors.Join(os.Rename(real, moved), os.Symlink(moved, real)); err != nil {
			t.Fatal(err)
		}
		works(t, s)
	})
}

// works stores a record and a blob, and reads both.
func works(t *testing.T, s *disk.Store) {
	t.Helper()
	for _, document := range []string{"a", "b"} {
		if err := s.Records().Put(t.Context(), "ns/app/_tags/a", []byte(document)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Records().Get(t.Context(), "ns/app/_tags/a"); string(got) != document || err != nil {
			t.Errorf("Get = %q, %v", got, err)
		}
	}
	if got := storagetest.Read(t, s, storagetest.Commit(t, s, s.Spools(), []byte("content"))); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

// A hard link is a regular file: its bytes are compared with the digest like those of
// any other file, and replacing it leaves the other name alone.
func TestHardLinkIsReplaced(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	dgst := digest.FromString("content")
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(other, []byte("another file"), 0o600), os.MkdirAll(filepath.Dir(blobPath(root, dgst)), 0o750), os.Link(other, blobPath(root, dgst))); err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	if got, err := os.ReadFile(other); string(got) != "another file" || err != nil {
		t.Errorf("the other name has %q, %v", got, err)
	}
}

// Each segment of a key may have 255 bytes, and the path of a file 4,096.
func TestKeyThatIsTooLongForAPath(t *testing.T) {
	s := open(t, t.TempDir(), disk.Options{})
	key := strings.Repeat(strings.Repeat("x", 200)+"/", 25) + "x"
	if err := s.Records().Put(t.Context(), key, []byte("a")); !errors.Is(err, storage.ErrInvalidKey) {
		t.Errorf("Put: %v, want ErrInvalidKey", err)
	}
	if _, err := s.Records().Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get: %v, want ErrNotExist", err)
	}
	if err := s.Records().Delete(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Delete: %v, want ErrNotExist", err)
	}
}

func TestRecordThatCouldNotBeReadBack(t *testing.T) {
	s := open(t, t.TempDir(), disk.Options{})
	if err := s.Records().Put(t.Context(), "key", make([]byte, 16<<20+1)); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("Put: %v, want ErrTooLarge", err)
	}
	document := bytes.Repeat([]byte("x"), 12<<20)
	if err := s.Records().Put(t.Context(), "key", document); err != nil {
		t.Error(err)
	}
	if got, err := s.Records().Get(t.Context(), "key"); !bytes.Equal(got, document) || err != nil {
		t.Errorf("Get: %d bytes, %v", len(got), err)
	}
}
