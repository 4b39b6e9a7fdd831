package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// image is the state of the files below a directory.
type image map[string]fileState

type fileState struct {
	mode    fs.FileMode
	content string
}

// takeImage reads the blobs and the records below a root.
func takeImage(t *testing.T, root string) image {
	t.Helper()
	files := image{}
	for _, dir := range []string{"blobs", "records"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := os.Stat(path)
			files[strings.TrimPrefix(path, root)] = fileState{info.Mode(), string(content)}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// write makes a root of an image.
func (i image) write(t *testing.T, root string) {
	t.Helper()
	for path, file := range i {
		path = filepath.Join(root, path)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(file.content), 0o600), os.Chmod(path, file.mode))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cut returns what a power cut may leave: of each file that has changed since the last flush,
// the state before, the state after, or the state after with bytes that did not reach the
// disk. A mode alone may have reached it or not.
func cut(random *rand.Rand, before, after image) image {
	left := image{}
	paths := maps.Clone(before)
	maps.Copy(paths, after)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		old, hadOld := before[path]
		current, hasCurrent := after[path]
		keepOld := func() {
			if hadOld {
				left[path] = old
			}
		}
		switch {
		case !hasCurrent && random.IntN(2) == 0: // the removal is on the disk
		case !hasCurrent, random.IntN(4) == 0:
			keepOld()
		case hadOld && old.content == current.content:
			left[path] = current
		default:
			left[path] = fileState{current.mode, tear(random, current.content)}
		}
	}
	return left
}

// tear returns the content of a file of which some bytes may be missing.
func tear(random *rand.Rand, content string) string {
	at := random.IntN(len(content) + 1)
	switch random.IntN(5) {
	case 0:
		return content[:at]
	case 1:
		return ""
	case 2:
		return content[:at] + strings.Repeat("\x00", len(content)-at)
	case 3:
		return strings.Repeat("\x00", at) + content[at:]
	default:
		return content
	}
}

// worker changes a store, and knows what each blob and record may be.
type worker struct {
	t      *testing.T
	store  *disk.Store
	random *rand.Rand
	bodies map[digest.Digest][]byte
	// documents are those that a record had, the latest last. nil: it was absent.
	documents map[string][][]byte
}

func (w *worker) step() {
	w.t.Helper()
	ctx := w.t.Context()
	body := fmt.Appendf(nil, "content %d %s", w.random.IntN(12), strings.Repeat("x", 300))
	dgst, key := digest.FromBytes(body), fmt.Sprintf("a/b%d/key", w.random.IntN(6))
	var err error
	switch w.random.IntN(6) {
	case 0, 1:
		storagetest.Commit(w.t, w.store, w.store.Spools(), body)
		w.bodies[dgst] = body
	case 2:
		err = w.store.Delete(ctx, dgst)
	case 3, 4:
		document := fmt.Appendf(nil, `{"key":%q,"n":%d}`, key, w.random.Uint64())
		err = w.store.Records().Put(ctx, key, document)
		w.documents[key] = append(w.documents[key], document)
	default:
		err = w.store.Records().Delete(ctx, key)
	}
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		w.t.Fatal(err)
	}
}

// expectRight fails the test if the store has anything that was never stored.
func (w *worker) expectRight(s *disk.Store) {
	w.t.Helper()
	ctx := w.t.Context()
	for dgst, body := range w.bodies {
		if info, err := s.Stat(ctx, dgst); err == nil && info.Size != int64(len(body)) {
			w.t.Errorf("%s has %d bytes, want %d", dgst, info.Size, len(body))
		}
		object, err := s.Open(ctx, dgst)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := io.ReadAll(object.Content)
		if err != nil || !bytes.Equal(got, body) {
			w.t.Errorf("%s has %.40q, %v", dgst, got, err)
		}
		object.Content.Close()
	}
	for key, documents := range w.documents {
		got, err := s.Records().Get(ctx, key)
		known := slices.ContainsFunc(documents, func(document []byte) bool { return bytes.Equal(document, got) })
		if err != nil && !errors.Is(err, storage.ErrNotExist) || err == nil && !known {
			w.t.Errorf("%s has %.80q, %v", key, got, err)
		}
	}
}

// After a power cut at any moment, with the changes since the last flush on the disk in any
// subset and with any of their bytes, the store serves nothing wrong.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			s := open(t, root, disk.Options{Durability: disk.Behind})
			w := &worker{t: t, store: s, random: rand.New(rand.NewPCG(seed, 1)), bodies: map[digest.Digest][]byte{}, documents: map[string][][]byte{}}
			durable, left := takeImage(t, root), image(nil)
			s.OnSyncfs(func() error {
				now := takeImage(t, root)
				if left == nil && w.random.IntN(8) == 0 { // in the middle of a flush
					left = cut(w.random, durable, now)
				}
				durable = now
				for range w.random.IntN(6) { // while the flush runs, and not in it
					w.step()
				}
				return nil
			})
			for range 60 + w.random.IntN(60) {
				if w.step(); w.random.IntN(12) == 0 {
					s.Flush()
				}
			}
			if left == nil {
				left = cut(w.random, durable, takeImage(t, root))
			}
			s.OnSyncfs(func() error { return nil })
			w.expectRecovery(left, seed%2 == 0)
		})
	}
}

// expectRecovery fails the test unless a store over the state after a power cut serves nothing
// wrong, and stores missing content again. In the other order, downloads come before readers.
func (w *worker) expectRecovery(left image, readersFirst bool) {
	w.t.Helper()
	root := w.t.TempDir()
	left.write(w.t, root)
	s := open(w.t, root, disk.Options{Durability: disk.Behind})
	if readersFirst {
		w.expectRight(s)
	}
	for dgst, body := range w.bodies {
		storagetest.Commit(w.t, s, s.Spools(), body)
		if got := storagetest.Read(w.t, s, dgst); !bytes.Equal(got, body) {
			w.t.Errorf("%s reads %.40q after another commit", dgst, got)
		}
	}
	w.expectRight(s)
	// The goroutine that hashes suspects may be at work still, and what it trusts is flushed next.
	for range 1000 {
		if s.Flush(); len(marked(w.t, root)) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	expectUnmarked(w.t, root)
}

// expectUnmarked fails the test if a blob has the mark.
func expectUnmarked(t *testing.T, root string) {
	t.Helper()
	if paths := marked(t, root); len(paths) > 0 {
		t.Errorf("%q are still marked", paths)
	}
}

// marked returns the blobs that have the mark.
func marked(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	for path, file := range takeImage(t, root) {
		if strings.HasPrefix(path, "/blobs") && file.mode&fs.ModeSticky != 0 {
			paths = append(paths, path)
		}
	}
	return paths
}

// Content that was flushed before a power cut is served without a look at its bytes.
func TestFlushedContentIsNoSuspect(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Behind})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if marked := s.FlushStats().Marked; marked != 1 {
		t.Errorf("%d contents are marked after a commit, want 1", marked)
	}
	s.Flush()
	expectUnmarked(t, root)
	if stats := s.FlushStats(); stats.Marked != 0 || stats.Flushes != 1 {
		t.Errorf("after a flush: %+v", stats)
	}
	s.Flush() // of nothing
	if stats := s.FlushStats(); stats.Flushes != 1 {
		t.Errorf("after two flushes of one content: %+v", stats)
	}
	next := open(t, root, disk.Options{Durability: disk.Behind})
	storagetest.Read(t, next, dgst)
	if stats := next.FlushStats(); stats.Intact != 0 {
		t.Errorf("a flushed content was hashed: %+v", stats)
	}
}

// The goroutine of the next process hashes the blobs that no client asks for. Damaged content goes to the
// quarantine, and intact content loses its mark with the next flush.
func TestSuspectsAreChecked(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Behind})
	intact := storagetest.Commit(t, s, s.Spools(), []byte("intact"))
	torn := storagetest.Commit(t, s, s.Spools(), []byte("torn"))
	crashed := t.TempDir()
	files := takeImage(t, root)
	path := strings.TrimPrefix(blobPath(root, torn), root)
	files[path] = fileState{files[path].mode, "\x00\x00\x00\x00"}
	files.write(t, crashed)

	log, logger := newLog()
	next := open(t, crashed, disk.Options{Durability: disk.Behind, Logger: logger})
	next.WaitForSuspects(2)
	if stats := next.FlushStats(); stats.Intact != 1 || stats.Damaged != 1 || stats.Marked != 1 {
		t.Errorf("%+v", stats)
	}
	if _, err := next.Stat(t.Context(), torn); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of the torn content: %v", err)
	}
	if kept, _ := filepath.Glob(filepath.Join(crashed, "quarantine", "sha256-"+torn.Encoded()+".*")); len(kept) != 1 {
		t.Errorf("the quarantine has %q", kept)
	}
	if lines := log.String(); !strings.Contains(lines, "is damaged. It was quarantined") {
		t.Errorf("the log has %s", lines)
	}
	next.Flush()
	expectUnmarked(t, crashed)
	if got := storagetest.Read(t, next, intact); string(got) != "intact" {
		t.Errorf("read %q", got)
	}
}

// If the disk has lost bytes, the content that was not flushed yet is not kept, and each
// file is flushed by itself from then on.
func TestFlushFails(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{Durability: disk.Behind})
	s.WaitForCount()
	before := storagetest.Commit(t, s, s.Spools(), []byte("flushed before"))
	s.Flush()
	lost := storagetest.Commit(t, s, s.Spools(), []byte("lost"))
	s.OnSyncfs(func() error { return syscall.EIO })
	s.Flush()
	if _, err := s.Stat(t.Context(), lost); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of what could not be flushed: %v", err)
	}
	if got := storagetest.Read(t, s, before); string(got) != "flushed before" {
		t.Errorf("read %q", got)
	}
	wantSize(t, s, int64(len("flushed before")), 1)
	storagetest.Commit(t, s, s.Spools(), []byte("after"))
	if stats := s.FlushStats(); stats.Failures != 1 || stats.Marked != 0 {
		t.Errorf("%+v", stats)
	}
	expectUnmarked(t, root)
}

// A kernel that cannot flush a filesystem as a whole says nothing about its bytes.
func TestFlushIsUnsupported(t *testing.T) {
	s := open(t, t.TempDir(), disk.Options{Durability: disk.Behind})
	dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
	s.OnSyncfs(func() error { return syscall.ENOSYS })
	s.Flush()
	if got := storagetest.Read(t, s, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	flushed := recordFlushes(s, "")
	if err := s.Records().Put(t.Context(), "key", nil); err != nil {
		t.Fatal(err)
	}
	if len(*flushed) == 0 {
		t.Error("a record was not flushed by itself")
	}
}

// A store that is closed leaves nothing for the next one to hash.
func TestCloseFlushes(t *testing.T) {
	root := t.TempDir()
	s, err := disk.Open(root, disk.Options{Durability: disk.Behind})
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, s, s.Spools(), []byte("content"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expectUnmarked(t, root)
}

// Records of earlier versions have no checksum and are read. A record that bears the mark,
// or begins with a checksum, must have the bytes that belong to it.
func TestRecordsOfEarlierVersions(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, disk.Options{})
	if err := s.Records().Put(t.Context(), "key", []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "records", "key")
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string // "": absent
	}{
		"earlier":               {`{"a":2}`, 0o600, `{"a":2}`},
		"whole":                 {string(written), 0o600 | fs.ModeSticky, `{"a":1}`},
		"restored without mark": {string(written), 0o600, `{"a":1}`},
		"torn and unmarked":     {string(written[:len(written)-1]), 0o600, ""},
		"torn":                  {string(written[:20]), 0o600 | fs.ModeSticky, ""},
		"empty":                 {"", 0o600 | fs.ModeSticky, ""},
		"zeros":                 {strings.Repeat("\x00", len(written)), 0o600 | fs.ModeSticky, ""},
		"without a beginning":   {strings.Repeat("\x00", 40) + string(written[40:]), 0o600 | fs.ModeSticky, ""},
		"another document":      {string(written[:len(written)-2]) + "2}", 0o600 | fs.ModeSticky, ""},
	} {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(c.content), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		got, err := s.Records().Get(t.Context(), "key")
		if string(got) != c.want || errors.Is(err, storage.ErrNotExist) != (c.want == "") {
			t.Errorf("%s: Get = %q, %v", name, got, err)
		}
	}
}
