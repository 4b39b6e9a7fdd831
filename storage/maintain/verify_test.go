package maintain_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/storage/storagetest"
)

func newDisk(t *testing.T) (s *disk.Store, root string) {
	t.Helper()
	root = t.TempDir()
	s, err := disk.Open(root, disk.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, root
}

// spoil replaces the file of a stored blob.
func spoil(t *testing.T, root string, dgst digest.Digest, content string) {
	t.Helper()
	path := filepath.Join(root, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded())
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func TestVerify(t *testing.T) {
	s, root := newDisk(t)
	var good, bad []digest.Digest
	for _, content := range []string{"one", "two", "three", "", strings.Repeat("large ", 1<<17)} {
		good = append(good, storagetest.Commit(t, s, s.Spools(), []byte(content)))
	}
	sha512 := digest.SHA512.FromString("sha512")
	must(t, s.Commit(t.Context(), sha512, storagetest.NewSpool(t, s.Spools(), []byte("sha512"))))
	good = append(good, sha512)
	for content, now := range map[string]string{"flipped": "flopped", "cut": "cu", "grown": "grown!", "emptied": ""} {
		dgst := storagetest.Commit(t, s, s.Spools(), []byte(content))
		spoil(t, root, dgst, now)
		bad = append(bad, dgst)
	}
	slices.Sort(bad)
	const goodBytes, badBytes = 3 + 3 + 5 + 6 + 6<<17, 7 + 2 + 6

	for _, run := range []string{"first", "second"} {
		var last maintain.Amount
		report, err := maintain.Verify(t.Context(), s, maintain.VerifyOptions{
			Quarantine: s.Quarantine,
			Progress: func(so maintain.Amount) {
				if so.Objects < last.Objects || so.Bytes < last.Bytes {
					t.Errorf("progress went from %+v to %+v", last, so)
				}
				last = so
			},
		})
		must(t, err)
		if want := (maintain.Amount{Objects: int64(len(good)), Bytes: goodBytes}); report.Verified != want {
			t.Errorf("%s: verified %+v, want %+v", run, report.Verified, want)
		}
		if want := (maintain.Amount{Objects: int64(len(good) + len(bad)), Bytes: goodBytes + badBytes}); run == "first" && last != want {
			t.Errorf("progress ended at %+v, want %+v", last, want)
		}
		var found []digest.Digest
		for _, wrong := range report.Wrong {
			found = append(found, wrong.Digest)
			info, err := os.Stat(wrong.Path)
			if err != nil || info.Size() != wrong.Size || !errors.Is(wrong.Err, storage.ErrCorrupt) {
				t.Errorf("%+v: quarantined file: %v", wrong, err)
			}
		}
		if !slices.Equal(found, bad) {
			t.Errorf("%s: %q are wrong, want %q", run, found, bad)
		}
		bad = nil
	}
	for _, dgst := range good {
		if got := dgst.Algorithm().FromBytes(storagetest.Read(t, s, dgst)); got != dgst {
			t.Errorf("%s now is %s", dgst, got)
		}
	}
}

// scripted is a store that opens blobs as a test says.
type scripted struct {
	storage.Store
	open func(ctx context.Context, dgst digest.Digest) (*storage.Object, error)
	fail error // of listing, after all
}

func (s *scripted) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	return s.open(ctx, dgst)
}

func (s *scripted) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		for entry, err := range s.Store.All(ctx) {
			if !yield(entry, err) {
				return
			}
		}
		if s.fail != nil {
			yield(storage.Entry{}, s.fail)
		}
	}
}

// newScripted returns a store with one blob, of seven bytes.
func newScripted(t *testing.T) (*scripted, digest.Digest) {
	m := storagetest.NewMemory(t)
	dgst := storagetest.Commit(t, m, m.Spools(), []byte("content"))
	return &scripted{Store: m, open: m.Open}, dgst
}

// content reads some bytes, then an error.
type content struct {
	io.Reader
	io.Seeker
	err    error
	closed *atomic.Int32
}

func (c content) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF && c.err != nil {
		err = c.err
	}
	return n, err
}

func (c content) Close() error { c.closed.Add(1); return nil }

func TestVerifyWhatGoesWrong(t *testing.T) {
	var closed atomic.Int32
	object := func(text string, err error) func(context.Context, digest.Digest) (*storage.Object, error) {
		return func(_ context.Context, dgst digest.Digest) (*storage.Object, error) {
			return &storage.Object{
				Info:    storage.Info{Digest: dgst, Size: 7},
				Content: content{Reader: strings.NewReader(text), err: err, closed: &closed},
			}, nil
		}
	}
	refuse := func(err error) func(context.Context, digest.Digest) (*storage.Object, error) {
		return func(context.Context, digest.Digest) (*storage.Object, error) { return nil, err }
	}
	full := errors.New("no space for quarantine")
	for name, c := range map[string]struct {
		open        func(context.Context, digest.Digest) (*storage.Object, error)
		quarantine  error
		finds       []error // what the finding's error matches; none: nothing is found
		quarantines int
		opened      int32
	}{
		"evicted before it is opened":       {open: refuse(storage.ErrNotExist)},
		"cannot be opened":                  {open: refuse(syscall.EACCES), finds: []error{syscall.EACCES}},
		"cannot be read":                    {open: object("con", syscall.EIO), finds: []error{syscall.EIO}, opened: 1},
		"corrupt":                           {open: object("cantent", nil), finds: []error{storage.ErrCorrupt}, quarantines: 1, opened: 1},
		"corrupt and evicted meanwhile":     {open: object("cantent", nil), quarantine: storage.ErrNotExist, quarantines: 1, opened: 1},
		"corrupt and cannot be quarantined": {open: object("cantent", nil), quarantine: full, finds: []error{storage.ErrCorrupt, full}, quarantines: 1, opened: 1},
		"right":                             {open: object("content", nil), opened: 1},
	} {
		t.Run(name, func(t *testing.T) {
			closed.Store(0)
			s, dgst := newScripted(t)
			s.open = c.open
			quarantines := 0
			report, err := maintain.Verify(t.Context(), s, maintain.VerifyOptions{
				Jobs: 1,
				Quarantine: func(_ context.Context, got digest.Digest) (string, error) {
					quarantines++
					if got != dgst {
						t.Errorf("quarantined %s", got)
					}
					return "", c.quarantine
				},
			})
			must(t, err)
			if want := min(len(c.finds), 1); len(report.Wrong) != want {
				t.Fatalf("found %+v, want %d", report.Wrong, want)
			}
			for _, want := range c.finds {
				if f := report.Wrong[0]; !errors.Is(f.Err, want) || f.Info != (storage.Info{Digest: dgst, Size: 7}) {
					t.Errorf("found %+v, want %v", f, want)
				}
			}
			if quarantines != c.quarantines || closed.Load() != c.opened {
				t.Errorf("%d quarantines, %d closed; want %d, %d", quarantines, closed.Load(), c.quarantines, c.opened)
			}
		})
	}
}

// A listing that breaks off is an error, and what was listed is reported.
func TestVerifyListingFails(t *testing.T) {
	s, _ := newScripted(t)
	s.fail = syscall.EIO
	report, err := maintain.Verify(t.Context(), s, maintain.VerifyOptions{})
	if !errors.Is(err, syscall.EIO) || report.Verified.Objects != 1 {
		t.Errorf("Verify = %+v, %v, want one content and the error", report, err)
	}
}

// A context that ends while a blob is read says nothing about it.
func TestVerifyInterrupted(t *testing.T) {
	s, _ := newScripted(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	report, err := maintain.Verify(ctx, s, maintain.VerifyOptions{
		Progress: func(maintain.Amount) { cancel(why) },
		Quarantine: func(context.Context, digest.Digest) (string, error) {
			t.Error("quarantined")
			return "", nil
		},
	})
	if !errors.Is(err, why) || report.Verified.Objects != 0 || len(report.Wrong) != 0 {
		t.Errorf("Verify = %+v, %v, want nothing but the context's cause", report, err)
	}
}

// No more blobs are open at once than there are jobs, and as many are.
func TestVerifyJobs(t *testing.T) {
	for jobs, want := range map[int]int32{0: 2, 1: 1, 3: 3} {
		m := storagetest.NewMemory(t)
		for i := range 20 {
			storagetest.Commit(t, m, m.Spools(), []byte{byte(i)})
		}
		var open, most atomic.Int32
		together := make(chan struct{})
		meet := sync.OnceFunc(func() { close(together) })
		s := &scripted{Store: m, open: func(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
			n := open.Add(1)
			defer open.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if n == want {
				meet()
			}
			<-together
			return m.Open(ctx, dgst)
		}}
		report, err := maintain.Verify(t.Context(), s, maintain.VerifyOptions{Jobs: jobs})
		must(t, err)
		if report.Verified.Objects != 20 || most.Load() != want {
			t.Errorf("%d jobs: verified %+v, %d at once, want %d", jobs, report.Verified, most.Load(), want)
		}
	}
}
