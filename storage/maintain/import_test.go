package maintain_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/storage/storagetest"
)

// keep writes a blob as a registry does, below the directory of its blobs.
func keep(t *testing.T, blobs string, dgst digest.Digest, content string) (file string) {
	t.Helper()
	file = filepath.Join(blobs, dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded(), "data")
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func importFrom(t *testing.T, path string, store storage.Driver, opts maintain.ImportOptions) maintain.ImportReport {
	t.Helper()
	dir, err := maintain.ListRegistryDir(t.Context(), path)
	must(t, err)
	opts.Spools = store.Spools()
	report, err := dir.Import(t.Context(), store, opts)
	must(t, err)
	return report
}

// The directory that an operator names may be any of those that lead to the blobs.
func TestImportFindsLayouts(t *testing.T) {
	dgst := digest.FromString("layer")
	for _, tc := range []struct{ product, blobs, named string }{
		{"Distribution", "docker/registry/v2/blobs", ""},
		{"Distribution", "docker/registry/v2/blobs", "docker"},
		{"Distribution", "docker/registry/v2/blobs", "docker/registry"},
		{"Distribution", "docker/registry/v2/blobs", "docker/registry/v2"},
		{"Distribution", "docker/registry/v2/blobs", "docker/registry/v2/blobs"},
		{"Distribution", "docker/registry/v2/blobs", "docker/registry/v2/blobs/sha256"},
		{"Harbor", "registry/docker/registry/v2/blobs", ""},
		{"Angos", "v2/blobs", ""},
		{"Angos", "v2/blobs", "v2"},
	} {
		root := t.TempDir()
		keep(t, filepath.Join(root, tc.blobs), dgst, "layer")
		store := storagetest.NewMemory(t)
		report := importFrom(t, filepath.Join(root, tc.named), store, maintain.ImportOptions{})
		if report.Imported.Objects != 1 || string(storagetest.Read(t, store, dgst)) != "layer" {
			t.Errorf("%s at %q: %+v", tc.product, tc.named, report)
		}
	}
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if _, err := maintain.ListRegistryDir(t.Context(), path); !errors.Is(err, maintain.ErrNoRegistry) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Only bytes that match their digests become content; everything else is named.
func TestImportSkipsWhatIsWrong(t *testing.T) {
	root := t.TempDir()
	blobs := filepath.Join(root, "v2", "blobs")
	of := digest.FromString
	large := strings.Repeat("large ", 1<<17)
	keep(t, blobs, of("good"), "good")
	keep(t, blobs, of(large), large)
	keep(t, blobs, of(""), "")
	keep(t, blobs, digest.SHA512.FromString("long"), "long")
	// Other files beside the data belong to the registry.
	must(t, os.WriteFile(filepath.Join(filepath.Dir(keep(t, blobs, of("more"), "more")), "index.json"), nil, 0o600))

	wrong := map[string]error{
		keep(t, blobs, of("flipped"), "flopped"): storage.ErrCorrupt,
		keep(t, blobs, of("cut"), "cu"):          storage.ErrCorrupt,
		keep(t, blobs, of("grown"), "grown!"):    storage.ErrCorrupt,
		keep(t, blobs, of("emptied"), ""):        storage.ErrCorrupt,
	}
	replaced := func(content string, by func(file string) error) {
		file := keep(t, blobs, of(content), content)
		must(t, errors.Join(os.Remove(file), by(file)))
		wrong[filepath.Dir(file)] = nil
	}
	target := filepath.Join(root, "secret")
	must(t, os.WriteFile(target, []byte("linked"), 0o600))
	replaced("linked", func(file string) error { return os.Symlink(target, file) })
	replaced("pipe", func(file string) error { return syscall.Mkfifo(file, 0o600) })
	replaced("directory", func(file string) error { return os.Mkdir(file, 0o700) })
	replaced("missing", func(string) error { return nil })
	linkedDir := filepath.Dir(keep(t, blobs, of("linked directory"), "linked directory"))
	must(t, errors.Join(os.Rename(linkedDir, filepath.Join(root, "away")), os.Symlink(filepath.Join(root, "away"), linkedDir)))
	wrong[linkedDir] = nil
	for _, path := range []string{"md5/ab/abc/data", "sha256/ab/zz/data", "sha256/ab/" + of("misplaced").Encoded() + "/data"} {
		must(t, os.MkdirAll(filepath.Join(blobs, filepath.Dir(path)), 0o700))
		must(t, os.WriteFile(filepath.Join(blobs, path), nil, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(blobs, "sha256", "file"), nil, 0o600))
	for _, path := range []string{"md5", "sha256/ab/zz", "sha256/ab/" + of("misplaced").Encoded(), "sha256/file"} {
		wrong[filepath.Join(blobs, path)] = nil
	}
	if os.Geteuid() != 0 {
		file := keep(t, blobs, of("forbidden"), "forbidden")
		must(t, os.Chmod(file, 0))
		wrong[file] = os.ErrPermission
	}

	store, _ := newDisk(t)
	report := importFrom(t, root, store, maintain.ImportOptions{})
	if want := (maintain.Amount{Objects: 5, Bytes: int64(4 + len(large) + 0 + 4 + 4)}); report.Imported != want {
		t.Errorf("imported %+v, want %+v", report.Imported, want)
	}
	for _, content := range []string{"good", large, "", "more"} {
		if got := storagetest.Read(t, store, of(content)); string(got) != content {
			t.Errorf("%s has %d bytes", of(content), len(got))
		}
	}
	for _, skip := range report.Skips.First {
		want, ok := wrong[skip.Path]
		if !ok || skip.Err == nil || want != nil && !errors.Is(skip.Err, want) {
			t.Errorf("skipped %s: %v, want %v", skip.Path, skip.Err, want)
		}
		delete(wrong, skip.Path)
	}
	if len(wrong) > 0 {
		t.Errorf("not skipped: %v", wrong)
	}
	n := 0
	for _, err := range store.All(t.Context()) {
		must(t, err)
		n++
	}
	if n != 5 {
		t.Errorf("%d contents are stored", n)
	}
}

// A directory may hold any number of wrong files: the first ones are named.
func TestImportBoundsItsFindings(t *testing.T) {
	root := t.TempDir()
	const files = 120
	for n := range files {
		keep(t, filepath.Join(root, "blobs"), digest.FromString(fmt.Sprint(n)), "wrong")
	}
	report := importFrom(t, root, storagetest.NewMemory(t), maintain.ImportOptions{Jobs: 4})
	if report.Skips.Count != files || len(report.Skips.First) != 100 {
		t.Errorf("%d skips, %d of them with names", report.Skips.Count, len(report.Skips.First))
	}
}

// A second run reads nothing of what the first one stored, and replaces a blob that
// was cut since.
func TestImportGoesOn(t *testing.T) {
	root := t.TempDir()
	blobs := filepath.Join(root, "docker/registry/v2/blobs")
	var files []string
	for _, content := range []string{"one", "two", "three"} {
		files = append(files, keep(t, blobs, digest.FromString(content), content))
	}
	store, data := newDisk(t)
	importFrom(t, root, store, maintain.ImportOptions{})
	spoil(t, data, digest.FromString("two"), "tw")
	must(t, os.WriteFile(files[0], []byte("ONE"), 0o600)) // would be skipped if it were read
	report := importFrom(t, root, store, maintain.ImportOptions{})
	if want := (maintain.ImportReport{Imported: maintain.Amount{Objects: 1, Bytes: 3}, Present: maintain.Amount{Objects: 2, Bytes: 8}}); !equal(report, want) {
		t.Errorf("%+v, want %+v", report, want)
	}
	if got := storagetest.Read(t, store, digest.FromString("two")); string(got) != "two" {
		t.Errorf("two is %q", got)
	}
}

func equal(a, b maintain.ImportReport) bool {
	return a.Imported == b.Imported && a.Present == b.Present && a.LeftOut == b.LeftOut && a.Skips.Count == b.Skips.Count
}

// Content without room is left out, the oldest first, and wrong bytes take no room.
func TestImportWithinRoom(t *testing.T) {
	root := t.TempDir()
	blobs := filepath.Join(root, "v2/blobs")
	now := time.Now()
	for n, content := range []string{"newest", "wrong!", "second", "oldest"} {
		file := keep(t, blobs, digest.FromString(content), strings.ReplaceAll(content, "wrong!", "WRONG!"))
		used := now.Add(-time.Duration(n) * time.Hour)
		must(t, os.Chtimes(file, used, used))
	}
	for _, dry := range []bool{true, false} {
		store := storagetest.NewMemory(t)
		report := importFrom(t, root, store, maintain.ImportOptions{Room: new(int64(12)), DryRun: dry, Jobs: 1})
		want := maintain.ImportReport{Imported: maintain.Amount{Objects: 2, Bytes: 12}, LeftOut: maintain.Amount{Objects: 1, Bytes: 6}, Skips: maintain.Skips{Count: 1}}
		if dry {
			want.LeftOut, want.Skips.Count = maintain.Amount{Objects: 2, Bytes: 12}, 0
		}
		if !equal(report, want) {
			t.Errorf("dry run %t: %+v, want %+v", dry, report, want)
		}
		var stored []string
		for entry, err := range store.All(t.Context()) {
			must(t, err)
			stored = append(stored, string(storagetest.Read(t, store, entry.Digest)))
		}
		slices.Sort(stored)
		if want := []string{"newest", "second"}; dry && len(stored) > 0 || !dry && !slices.Equal(stored, want) {
			t.Errorf("dry run %t: stored %q", dry, stored)
		}
	}
}

// A disk that has to keep space free takes nothing, and no import fills it.
func TestImportLeavesTheDiskFree(t *testing.T) {
	root := t.TempDir()
	keep(t, filepath.Join(root, "v2/blobs"), digest.FromString("content"), "content")
	store, err := disk.Open(t.TempDir(), disk.Options{MinFree: math.MaxInt64 / 2})
	must(t, err)
	defer store.Close()
	report := importFrom(t, root, store, maintain.ImportOptions{})
	if want := (maintain.ImportReport{LeftOut: maintain.Amount{Objects: 1, Bytes: 7}}); !equal(report, want) {
		t.Errorf("%+v, want %+v", report, want)
	}
}

// A store that fails ends the import with its error.
func TestImportIntoBrokenStore(t *testing.T) {
	root := t.TempDir()
	for n := range 20 {
		keep(t, filepath.Join(root, "v2/blobs"), digest.FromString(fmt.Sprint(n)), fmt.Sprint(n))
	}
	dir, err := maintain.ListRegistryDir(t.Context(), root)
	must(t, err)
	store := storagetest.NewMemory(t)
	store.FailCommit(syscall.EIO)
	if report, err := dir.Import(t.Context(), store, maintain.ImportOptions{Spools: store.Spools()}); !errors.Is(err, syscall.EIO) || report.Imported.Objects != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	store.FailCommit(nil)
	ctx, cancel := context.WithCancel(t.Context())
	interrupted := maintain.ImportOptions{Spools: store.Spools(), Jobs: 1, Progress: func(maintain.Amount) { cancel() }}
	if report, err := dir.Import(ctx, store, interrupted); !errors.Is(err, context.Canceled) || report.Imported.Objects == 0 || report.Imported.Objects == 20 {
		t.Errorf("interrupted: %+v, %v", report, err)
	}
	if left, err := filepath.Glob(filepath.Join(root, "*spool*")); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
	if _, err := maintain.ListRegistryDir(ctx, root); !errors.Is(err, context.Canceled) {
		t.Errorf("listed: %v", err)
	}
}

// A link in the place of a file is no content, whenever it comes there.
func TestImportFollowsNoLateLink(t *testing.T) {
	root := t.TempDir()
	dgst := digest.FromString("content")
	file := keep(t, filepath.Join(root, "v2/blobs"), dgst, "content")
	grown := keep(t, filepath.Join(root, "v2/blobs"), digest.FromString("grown"), "grown")
	dir, err := maintain.ListRegistryDir(t.Context(), root)
	must(t, err)
	must(t, errors.Join(os.Rename(file, file+".moved"), os.Symlink(file+".moved", file), os.WriteFile(grown, []byte("grown!"), 0o600)))
	store := storagetest.NewMemory(t)
	report, err := dir.Import(t.Context(), store, maintain.ImportOptions{Spools: store.Spools()})
	if err != nil || report.Skips.Count != 2 || report.Imported.Objects != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if !slices.ContainsFunc(report.Skips.First, func(s maintain.Skip) bool { return errors.Is(s.Err, regular.ErrNotRegular) }) {
		t.Errorf("skips: %+v", report.Skips.First)
	}
}
