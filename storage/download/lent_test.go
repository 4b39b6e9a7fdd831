package download_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/storagetest"
)

// Sources share downloads within their namespace only. Those with Lent never share with
// those without it.
func TestDownloadsWithinANamespace(t *testing.T) {
	beside := storage.RepoID{Namespace: ours.Namespace, Name: "beside"}
	elsewhere := storage.RepoID{Namespace: "elsewhere", Name: ours.Name}
	for _, tc := range []struct {
		name          string
		first, second storage.RepoID
		lent          [2]bool // whether the sources have a Lent
		apart, joined bool    // apart: the second source
	}{
		{"the same namespace, without", ours, beside, [2]bool{false, false}, false, true},
		{"another namespace, without", ours, elsewhere, [2]bool{false, false}, false, false},
		{"the same repository", ours, ours, [2]bool{true, true}, false, true},
		{"the same namespace", ours, beside, [2]bool{true, true}, false, true},
		{"another namespace", ours, elsewhere, [2]bool{true, true}, false, false},
		{"began before", elsewhere, ours, [2]bool{false, true}, false, false},
		{"began before, the same repository", ours, ours, [2]bool{false, true}, false, false},
		{"ends after", ours, elsewhere, [2]bool{true, false}, false, false},
		{"apart", ours, beside, [2]bool{true, true}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				o := &origin{body: random(1000), step: make(chan int)}
				var readers []*download.Reader
				for i, repo := range []storage.RepoID{tc.first, tc.second} {
					src := o.source(repo)
					if tc.lent[i] {
						src.Lent = func(context.Context) bool { return false }
					}
					src.Apart = i == 1 && tc.apart
					readers = append(readers, s.reader(t, t.Context(), digest.FromBytes(o.body), src))
				}
				if readers[1].Joined() != tc.joined {
					t.Errorf("joined: %v", readers[1].Joined())
				}
				for _, r := range readers {
					r.Close()
				}
				close(o.step)
			})
		})
	}
}

// A namespace whose upstream never sends a byte, or never the last one, holds up no reader
// of another namespace that wants the same content.
func TestStuckDownloadOfAnotherNamespace(t *testing.T) {
	for name, begin := range map[string]int{"no byte": 0, "a part": 200 << 10, "all but one byte": 1<<20 - 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				body := random(1 << 20)
				stuck := &origin{body: body, step: make(chan int)}
				squatter := s.reader(t, t.Context(), digest.FromBytes(body), stuck.source(storage.RepoID{Namespace: "elsewhere", Name: "x"}))
				if begin > 0 {
					stuck.step <- begin
				}
				synctest.Wait()
				r := s.reader(t, t.Context(), digest.FromBytes(body), (&origin{body: body}).source(ours))
				if got, err := readAll(r); err != nil || string(got) != string(body) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				r.Close()
				squatter.Close()
				close(stuck.step)
			})
		})
	}
}

// Content that is not lent is not even searched in the store. The answer may change until
// the download begins.
func TestLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		o := &origin{body: random(1000)}
		dgst := digest.FromBytes(o.body)
		first := s.reader(t, t.Context(), dgst, o.source(ours))
		if _, err := readAll(first); err != nil {
			t.Fatal(err)
		}
		first.Close()
		synctest.Wait()

		searched := s.store.Calls("Open")
		src := o.source(storage.RepoID{Namespace: "elsewhere", Name: "x"})
		src.Lent = func(context.Context) bool { return false }
		r := s.reader(t, t.Context(), dgst, src)
		if got, err := readAll(r); err != nil || string(got) != string(o.body) || r.Joined() {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		r.Close()
		synctest.Wait() // the download has ended, so the next reader cannot join it
		if n := s.store.Calls("Open") - searched; n != 0 {
			t.Errorf("the store was searched %d times", n)
		}
		asked := 0
		src.Lent = func(context.Context) bool { asked++; return asked > 1 }
		obj, _, err := s.Open(t.Context(), dgst, src)
		if err != nil || obj == nil || asked != 3 {
			t.Fatalf("got %v, %v after %d questions; want the stored content", obj, err, asked)
		}
		obj.Content.Close()
		if len(o.opens) != 2 {
			t.Errorf("%d requests", len(o.opens))
		}
	})
}

// Content is stored for a source if Open would find it, or could not look.
func TestStored(t *testing.T) {
	body := random(1000)
	stored, missing := digest.FromBytes(body), digest.FromString("missing")
	never, always := func(context.Context) bool { return false }, func(context.Context) bool { return true }
	for name, test := range map[string]struct {
		digest digest.Digest
		source download.Source
		want   bool
	}{
		"stored":                      {stored, download.Source{}, true},
		"of the recorded size":        {stored, download.Source{Size: 1000}, true},
		"damaged":                     {stored, download.Source{Size: 1001}, false},
		"missing":                     {missing, download.Source{}, false},
		"missing, of a recorded size": {missing, download.Source{Size: 1000}, false},
		"not lent":                    {stored, download.Source{Lent: never}, false},
		"lent":                        {stored, download.Source{Lent: always}, true},
		"apart":                       {stored, download.Source{Apart: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, nil)
			if err := s.store.Commit(t.Context(), stored, storagetest.NewSpool(t, s.store.Spools(), body)); err != nil {
				t.Fatal(err)
			}
			if got := s.Stored(t.Context(), test.digest, test.source); got != test.want {
				t.Errorf("Stored = %v", got)
			}
			if n := s.store.Calls("Open"); n != 0 {
				t.Errorf("the content was opened %d times", n)
			}
		})
	}
}
