package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

var storeTests = map[string]func(*testing.T, storage.Driver){
	"CommitThenRead":       testCommitThenRead,
	"SeekAndReadAgain":     testSeek,
	"CommitAgain":          testCommitAgain,
	"CommitConcurrently":   testCommitConcurrently,
	"SpoolStaysReadable":   testSpoolStaysReadable,
	"Missing":              testMissing,
	"InvalidDigests":       testInvalidDigests,
	"DeleteWhileOpen":      testDeleteWhileOpen,
	"DeleteThenCommit":     testDeleteThenCommit,
	"All":                  testAll,
	"AllBreaksEarly":       testAllBreaksEarly,
	"AllEndsWithContext":   testAllEndsWithContext,
	"AllWhileThingsChange": testAllWhileThingsChange,
	"Touch":                testTouch,
}

func testCommitThenRead(t *testing.T, d storage.Driver) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a spool withholds
	for name, content := range map[string][]byte{"empty": {}, "small": []byte("{}"), "large": large} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			t.Run(name+"/"+algorithm.String(), func(t *testing.T) {
				dgst := algorithm.FromBytes(content)
				if err := d.Commit(t.Context(), dgst, NewSpool(t, d.Spools(), content)); err != nil {
					t.Fatalf("Commit: %v", err)
				}
				want := storage.Info{Digest: dgst, Size: int64(len(content))}
				if got, err := d.Stat(t.Context(), dgst); got != want || err != nil {
					t.Errorf("Stat = %+v, %v, want %+v", got, err, want)
				}
				if got := Read(t, d, dgst); !bytes.Equal(got, content) {
					t.Errorf("read %d bytes, which are not the %d that were committed", len(got), len(content))
				}
			})
		}
	}
}

func testSeek(t *testing.T, d storage.Driver) {
	dgst := Commit(t, d, d.Spools(), []byte("0123456789"))
	object, err := d.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Content.Close()
	other, err := d.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Content.Close()
	if at, err := object.Content.Seek(-3, io.SeekEnd); at != 7 || err != nil {
		t.Fatalf("Seek = %d, %v", at, err)
	}
	if got, err := io.ReadAll(object.Content); string(got) != "789" || err != nil {
		t.Errorf("read %q, %v after Seek", got, err)
	}
	if got, err := io.ReadAll(other.Content); string(got) != "0123456789" || err != nil {
		t.Errorf("another object read %q, %v", got, err)
	}
}

func testCommitAgain(t *testing.T, d storage.Driver) {
	content := []byte("content")
	dgst := Commit(t, d, d.Spools(), content)
	Commit(t, d, d.Spools(), content)
	if got := Read(t, d, dgst); !bytes.Equal(got, content) {
		t.Errorf("read %q", got)
	}
	if entries := collect(t, d); len(entries) != 1 {
		t.Errorf("All lists %d entries, want 1", len(entries))
	}
}

func testCommitConcurrently(t *testing.T, d storage.Driver) {
	content := bytes.Repeat([]byte("x"), 100_000)
	dgst := digest.FromBytes(content)
	var committers sync.WaitGroup
	for range 16 {
		s := NewSpool(t, d.Spools(), content)
		committers.Go(func() {
			if err := d.Commit(t.Context(), dgst, s); err != nil {
				t.Errorf("Commit: %v", err)
				return
			}
			if info, err := d.Stat(t.Context(), dgst); info.Size != int64(len(content)) || err != nil {
				t.Errorf("Stat after Commit = %+v, %v", info, err)
			}
		})
	}
	committers.Wait()
	if got := Read(t, d, dgst); !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, want %d", len(got), len(content))
	}
	if entries := collect(t, d); len(entries) != 1 {
		t.Errorf("All lists %d entries, want 1", len(entries))
	}
}

func testSpoolStaysReadable(t *testing.T, d storage.Driver) {
	content := bytes.Repeat([]byte("x"), 100_000)
	s := NewSpool(t, d.Spools(), content)
	before, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := d.Commit(t.Context(), digest.FromBytes(content), s); err != nil {
		t.Fatal(err)
	}
	after, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatalf("NewReader after Commit: %v", err)
	}
	defer after.Close()
	if err := d.Delete(t.Context(), digest.FromBytes(content)); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{"before": before, "after": after} {
		if got, err := io.ReadAll(r); !bytes.Equal(got, content) || err != nil {
			t.Errorf("a reader from %s the Commit read %d bytes, %v", name, len(got), err)
		}
	}
}

func testMissing(t *testing.T, d storage.Driver) {
	Commit(t, d, d.Spools(), []byte("another"))
	missing := digest.FromString("missing")
	if _, err := d.Stat(t.Context(), missing); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat: %v, want ErrNotExist", err)
	}
	if object, err := d.Open(t.Context(), missing); object != nil || !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Open: %v, %v, want ErrNotExist", object, err)
	}
	if err := d.Delete(t.Context(), missing); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Delete: %v, want ErrNotExist", err)
	}
}

func testInvalidDigests(t *testing.T, d storage.Driver) {
	hex := strings.Repeat("a", 64)
	for _, dgst := range []digest.Digest{
		"", "sha256", "sha256:", "sha256:ab", digest.Digest("sha256:../../" + hex[6:]), digest.Digest("sha256:" + strings.Repeat("/", 64)),
		digest.Digest("SHA256:" + hex), digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("sha256:" + hex + "\x00"),
		digest.Digest("../sha256:" + hex), digest.Digest("md5:" + hex[:32]), digest.SHA384.FromString("not served"),
	} {
		_, statErr := d.Stat(t.Context(), dgst)
		_, openErr := d.Open(t.Context(), dgst)
		for method, err := range map[string]error{
			"Stat": statErr, "Open": openErr,
			"Commit": d.Commit(t.Context(), dgst, NewSpool(t, d.Spools(), []byte("x"))),
			"Delete": d.Delete(t.Context(), dgst),
		} {
			if err == nil || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s(%q) = %v, want an error about the digest", method, dgst, err)
			}
		}
	}
	if entries := collect(t, d); len(entries) != 0 {
		t.Errorf("All lists %v", entries)
	}
}

func testDeleteWhileOpen(t *testing.T, d storage.Driver) {
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	dgst := Commit(t, d, d.Spools(), content)
	object, err := d.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Content.Close()
	start := make([]byte, 10)
	if _, err := io.ReadFull(object.Content, start); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), dgst); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if _, err := d.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat after Delete: %v, want ErrNotExist", err)
	}
	rest, err := io.ReadAll(object.Content)
	if !bytes.Equal(append(start, rest...), content) || err != nil {
		t.Errorf("read %d bytes in all, %v, want %d", len(start)+len(rest), err, len(content))
	}
	if err := d.Delete(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a second Delete: %v, want ErrNotExist", err)
	}
}

func testDeleteThenCommit(t *testing.T, d storage.Driver) {
	dgst := Commit(t, d, d.Spools(), []byte("content"))
	if err := d.Delete(t.Context(), dgst); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat after Delete: %v, want ErrNotExist", err)
	}
	if _, err := d.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Open after Delete: %v, want ErrNotExist", err)
	}
	Commit(t, d, d.Spools(), []byte("content"))
	if got := Read(t, d, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

func testAll(t *testing.T, d storage.Driver) {
	want := make(map[digest.Digest]int64)
	for _, content := range []string{"", "one", "a second one"} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			dgst := algorithm.FromString(content)
			if err := d.Commit(t.Context(), dgst, NewSpool(t, d.Spools(), []byte(content))); err != nil {
				t.Fatal(err)
			}
			want[dgst] = int64(len(content))
		}
	}
	if err := d.Records().Put(t.Context(), "a/record", []byte("is no content")); err != nil {
		t.Fatal(err)
	}
	NewSpool(t, d.Spools(), []byte("nor is what was not committed"))
	gone := Commit(t, d, d.Spools(), []byte("nor what was deleted"))
	if err := d.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}

	entries := collect(t, d)
	for dgst, size := range want {
		entry, ok := entries[dgst]
		if !ok || entry.Size != size {
			t.Errorf("All lists %+v, want %s with %d bytes", entry, dgst, size)
		}
		if age := time.Since(entry.Used); age < -time.Minute || age > time.Minute {
			t.Errorf("%s was used %v ago, want just now", dgst, age)
		}
	}
	if len(entries) != len(want) {
		t.Errorf("All lists %d entries, want %d", len(entries), len(want))
	}
}

func testAllBreaksEarly(t *testing.T, d storage.Driver) {
	for _, content := range []string{"a", "b", "c"} {
		Commit(t, d, d.Spools(), []byte(content))
	}
	n := 0
	for range d.All(t.Context()) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d entries before the break, want 2", n)
	}
}

func testAllEndsWithContext(t *testing.T, d storage.Driver) {
	for _, content := range []string{"a", "b", "c"} {
		Commit(t, d, d.Spools(), []byte(content))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	entries, failures := 0, 0
	for _, err := range d.All(ctx) {
		cancel()
		if err == nil {
			entries++
			continue
		}
		if failures++; !errors.Is(err, context.Canceled) {
			t.Errorf("All: %v, want the context's error", err)
		}
	}
	if entries != 1 || failures != 1 {
		t.Errorf("%d entries and %d errors, want one of each", entries, failures)
	}
}

func testAllWhileThingsChange(t *testing.T, d storage.Driver) {
	kept := Commit(t, d, d.Spools(), []byte("kept"))
	var listings sync.WaitGroup
	listings.Go(func() {
		for range 50 {
			if _, ok := collect(t, d)[kept]; !ok {
				t.Error("All misses a content that was there all the time")
			}
		}
	})
	for range 50 {
		dgst := Commit(t, d, d.Spools(), []byte("fleeting"))
		if err := d.Delete(t.Context(), dgst); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	listings.Wait()
}

// collect returns the entries of All by digest.
func collect(t *testing.T, store storage.Store) map[digest.Digest]storage.Entry {
	t.Helper()
	entries := make(map[digest.Digest]storage.Entry)
	for entry, err := range store.All(t.Context()) {
		if err != nil {
			t.Errorf("All: %v", err)
			continue
		}
		if _, twice := entries[entry.Digest]; twice {
			t.Errorf("All lists %s twice", entry.Digest)
		}
		entries[entry.Digest] = entry
	}
	return entries
}
