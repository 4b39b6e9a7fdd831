package evict_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/evict"
)

// upload stores blobs of 100 bytes for a block, an hour apart, as a mirror does that has
// uploaded them.
func (s *shared) upload(u *evict.Uses, block string, numbers ...int) (contents []digest.Digest) {
	for _, n := range numbers {
		dgst := s.put(fmt.Sprint(block, n), 100)
		u.Owned(dgst, block)
		u.Used(dgst)
		contents = append(contents, dgst)
		pass(time.Hour)
	}
	return contents
}

// notesBelow returns how many notes a folder has.
func (s *shared) notesBelow(folder string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.notes {
		if strings.HasPrefix(name, folder+"/") {
			n++
		}
	}
	return n
}

// A block with a cap loses its own least recently used content in the bucket, whichever mirror
// brought that in, and other blocks lose none. A successor knows the owners, and a changed cap
// holds for it and for the mirror that evicts.
func TestSharedCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		one, two := s.mirror(t), s.mirror(t)
		with := func(blocks map[string]int64) func(*evict.SharedOptions) {
			return func(o *evict.SharedOptions) { o.Blocks = blocks }
		}
		first := s.evictor(t, with(map[string]int64{"a": 500, "b": 0}))
		pass(2 * interval)
		a := s.upload(one, "a", 0, 1, 2, 3)
		b := s.upload(two, "b", 0, 1, 2, 3, 4, 5, 6, 7)
		one.Used(a[0])
		pass(time.Hour)
		a = append(a, s.upload(two, "a", 4, 5, 6)...)
		one.Used(a[0])
		pass(time.Hour)
		if got, want := s.removed(), []digest.Digest{a[1], a[2]}; !equal(got, want) {
			t.Errorf("removed %v, want %v", got, want)
		}
		first.SetBlocks(map[string]int64{"a": 400, "b": 0})
		pass(time.Hour)
		if got, want := s.removed(), a[1:4]; !equal(got, want) {
			t.Errorf("after a change: removed %v, want %v", got, want)
		}
		first.Close()
		if n := s.notesBelow("owned"); n != 0 {
			t.Errorf("%d notes of owners are left", n)
		}
		s.evictor(t, with(map[string]int64{"a": 200, "b": 0}))
		pass(time.Hour)
		if got, want := s.removed(), a[1:6]; !equal(got, want) {
			t.Errorf("a successor: removed %v, want %v", got, want)
		}
		if !s.has(a[0]) || slices.ContainsFunc(b, func(dgst digest.Digest) bool { return !s.has(dgst) }) {
			t.Error("content is gone that was used last, or of the other block")
		}
	})
}

// Mirrors keep the owners until a mirror evicts that reads them: one of an earlier version would
// leave the notes. The first owner keeps a blob.
func TestOwnersWaitForTheirReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		u := s.mirror(t)
		// An evictor of an earlier version.
		plan := `{"format":1,"evictor":"OLD","turn":%d}`
		for turn := range 6 {
			must(t, s.Write(t.Context(), "plan", fmt.Appendf(nil, plan, turn)))
			s.upload(u, "a", turn)
			pass(interval)
		}
		if n := s.notesBelow("owned"); n != 0 {
			t.Errorf("%d notes of owners for a mirror that does not read them", n)
		}
		u.Owned(digest.FromString("a0"), "b")
		s.evictor(t, func(o *evict.SharedOptions) { o.Blocks = map[string]int64{"a": 300, "b": 10} })
		pass(2 * time.Hour)
		if got := len(s.removed()); got != 3 {
			t.Errorf("%d contents were removed, want 3", got)
		}
	})
}

// Owners that cannot be read now, or that a later version wrote, stay as they are, with the notes.
// Damaged ones are replaced.
func TestSharedOwnersCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		err      error
		kept     bool
	}{
		"away":            {document: `{"format":1,"owners":["a"]}` + "\n", err: errors.New("away"), kept: true},
		"a later version": {document: `{"format":2,"owners":["a"]}` + "\n123456780", kept: true},
		"damaged":         {document: "\x00"},
		"hostile":         {document: `{"format":1,"owners":["a","` + strings.Repeat("x", 300) + `"]}` + "\n" + strings.Repeat("123456781", 3) + strings.Repeat("12345678\xff", 3)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShared()
				must(t, s.Write(t.Context(), "owners", []byte(c.document)))
				s.failIf(func(operation, name string) error {
					if operation == "read" && name == "owners" {
						return c.err
					}
					return nil
				})
				u := s.mirror(t)
				e := s.evictor(t, func(o *evict.SharedOptions) { o.Blocks = map[string]int64{"a": 200} })
				pass(2 * interval)
				s.upload(u, "a", 0, 1, 2, 3)
				e.Close()
				if got := string(s.notes["owners"].document) == c.document; got != c.kept {
					t.Errorf("the owners were kept: %v", got)
				}
				if got := len(s.removed()) == 0; got != c.kept {
					t.Errorf("removed %v", s.removed())
				}
			})
		})
	}
}

// Notes of strangers are read with their bounds, and go with the others.
func TestHostileNotesOfOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		known := s.put("known", 100)
		var many strings.Builder
		many.WriteString(`{"format":1,"block":"a"}`)
		for i := range 5000 {
			many.WriteString("\n" + digest.FromString(fmt.Sprint(i)).String())
		}
		for name, document := range map[string]string{
			"a": "", "b": `{"format":1}` + "\n" + known.String(), "c": `{"format":1,"block":"` + strings.Repeat("x", 256) + `"}` + "\n" + known.String(),
			"d": many.String(), "e": `{"format":1,"block":"a"}` + "\nsha256:short\n../../x", "f": strings.Repeat("x", 1<<20),
		} {
			must(t, s.Write(t.Context(), "owned/"+name, []byte(document)))
		}
		e := s.evictor(t, func(o *evict.SharedOptions) { o.Blocks = map[string]int64{"a": 10} })
		pass(3 * time.Hour)
		e.Close()
		if n := s.notesBelow("owned"); n != 0 {
			t.Errorf("%d notes are left", n)
		}
		if !s.has(known) {
			t.Error("a content without an owner is gone")
		}
	})
}
