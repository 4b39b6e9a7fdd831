package disk_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestQuarantine(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	s.WaitForCount()
	content := []byte("content")
	dgst := storagetest.Commit(t, s, s.Spools(), content)
	other := storagetest.Commit(t, s, s.Spools(), []byte("other"))
	reading, err := s.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Content.Close()

	path, err := s.Quarantine(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	if dir, name := filepath.Split(path); dir != filepath.Join(root, "quarantine")+"/" || !strings.HasPrefix(name, "sha256-"+dgst.Encoded()+".2") {
		t.Errorf("quarantined as %s", path)
	}
	if got, err := os.ReadFile(path); string(got) != "content" || err != nil {
		t.Errorf("the quarantined file holds %q, %v", got, err)
	}
	if got, err := io.ReadAll(reading.Content); string(got) != "content" || err != nil {
		t.Errorf("who has it open reads %q, %v", got, err)
	}
	if _, err := s.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat: %v, want ErrNotExist", err)
	}
	if _, err := s.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Open: %v, want ErrNotExist", err)
	}
	for entry, err := range s.All(t.Context()) {
		if entry.Digest != other || err != nil {
			t.Errorf("All lists %+v, %v", entry, err)
		}
	}
	wantSize(t, s, 5, 1)
	if _, err := s.Quarantine(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Quarantine of what is not there: %v, want ErrNotExist", err)
	}
	if _, err := s.Quarantine(t.Context(), "sha256:../../x"); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Quarantine of an invalid digest: %v", err)
	}

	storagetest.Commit(t, s, s.Spools(), content)
	again, err := s.Quarantine(t.Context(), dgst)
	if err != nil || again == path {
		t.Errorf("quarantined twice as %s, %v", again, err)
	}
	if kept, _ := os.ReadDir(filepath.Join(root, "quarantine")); len(kept) != 2 {
		t.Errorf("%d files in quarantine, want 2", len(kept))
	}
}

func TestQuarantineSurvivesAPowerCut(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Always})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	flushed := recordFlushes(s, root)
	if _, err := s.Quarantine(t.Context(), dgst); err != nil {
		t.Fatal(err)
	}
	if want := []string{"", "/quarantine", "/blobs/sha256/" + dgst.Encoded()[:2]}; !slices.Equal(*flushed, want) {
		t.Errorf("flushed %q, want %q", *flushed, want)
	}
}

// What cannot be moved stays, and the error names the path.
func TestQuarantineFails(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	inTheWay := filepath.Join(root, "quarantine")
	if err := os.WriteFile(inTheWay, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if path, err := s.Quarantine(t.Context(), dgst); err == nil || errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), inTheWay) {
		t.Errorf("Quarantine = %s, %v, want an error with the path", path, err)
	}
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

func TestExistingOpensOnlyWhatIsThere(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	for range 2 {
		if _, err := disk.Open(root, disk.Options{Existing: true}); !errors.Is(err, disk.ErrNoStore) || !strings.Contains(err.Error(), root) {
			t.Errorf("Open: %v, want ErrNoStore with the path", err)
		}
		if left, _ := os.ReadDir(root); len(left) > 0 {
			t.Errorf("Open made %v", left)
		}
		if err := os.MkdirAll(root, 0o750); err != nil {
			t.Fatal(err)
		}
	}
}

// Maintenance leaves a serving process, and what one has left behind, alone.
func TestExistingBesideAnotherProcess(t *testing.T) {
	root := t.TempDir()
	server := open(t, root, disk.Options{})
	server.WaitForCount()
	storagetest.Commit(t, server, server.Spools(), []byte("content"))
	spool := storagetest.NewSpool(t, server.Spools(), []byte("running"))
	leftover := filepath.Join(root, "tmp", "CRASHED", "spool-1")
	if err := os.MkdirAll(filepath.Dir(leftover), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(leftover, nil, 0o640); err != nil {
		t.Fatal(err)
	}

	beside := open(t, root, disk.Options{Existing: true})
	beside.WaitForCount()
	wantSize(t, beside, 0, 0)
	if _, err := beside.Quarantine(t.Context(), digest.FromString("content")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(leftover); err != nil {
		t.Errorf("the leftovers: %v", err)
	}
	if _, err := server.Open(t.Context(), digest.FromString("content")); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("the server opens what is in quarantine: %v", err)
	}
	storagetest.Commit(t, server, server.Spools(), []byte("content"))
	if err := server.Commit(t.Context(), digest.FromString("running"), spool); err != nil {
		t.Errorf("Commit of what ran meanwhile: %v", err)
	}
	for _, content := range []string{"content", "running"} {
		if got := storagetest.Read(t, beside, digest.FromString(content)); string(got) != content {
			t.Errorf("read %q, want %q", got, content)
		}
	}
	if err := server.Writable(t.Context()); err != nil {
		t.Error(err)
	}
}

// Of quarantined content the newest stays, within a limit. Other files in the quarantine are
// left to the operator.
func TestQuarantineHasALimit(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64
		sizes []int // of the blobs, in the order of their quarantine
		kept  []int // of which these stay
	}{
		"no limit":             {0, []int{100, 100, 100}, []int{0, 1, 2}},
		"below the limit":      {300, []int{100, 100, 100}, []int{0, 1, 2}},
		"above it":             {299, []int{100, 100, 100}, []int{1, 2}},
		"a large one":          {300, []int{50, 60, 290}, []int{2}},
		"one beyond the limit": {100, []int{50, 1000}, []int{1}},
		"empty ones":           {10, []int{0, 11, 0}, []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root, disk.Options{MaxQuarantine: c.limit})
			s.WaitForCount()
			dir := filepath.Join(root, "quarantine")
			foreign := filepath.Join(dir, "blobs-sha256-00.20260101T000000.000000000Z")
			if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(foreign, make([]byte, 1000), 0o600)); err != nil {
				t.Fatal(err)
			}
			var paths []string
			for n, size := range c.sizes {
				path, err := s.Quarantine(t.Context(), storagetest.Commit(t, s, s.Spools(), bytes.Repeat([]byte{byte(n)}, size)))
				if err != nil {
					t.Fatal(err)
				}
				paths = append(paths, path)
			}
			for n, path := range append(paths, foreign) {
				_, err := os.Stat(path)
				if want := path == foreign || slices.Contains(c.kept, n); (err == nil) != want {
					t.Errorf("content %d of %v, kept: %v, want %v", n, c.sizes, err == nil, want)
				}
			}
		})
	}
}
