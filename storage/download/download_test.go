package download_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ours   = storage.RepoID{Namespace: "docker.io", Name: "library/app"}
	theirs = storage.RepoID{Namespace: ours.Namespace, Name: "org/app"}
)

// noise is random bytes: the operating system takes long to make them.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 16<<20)
	rand.Read(p)
	return p
})

// random returns n bytes that differ from those of other calls: pieces of noise, the first of which
// begins with bytes of its own.
func random(n int) []byte {
	p := make([]byte, n)
	for at := 0; at < n; {
		at += copy(p[at:], noise()[mathrand.IntN(len(noise())):])
	}
	rand.Read(p[:min(n, 16)])
	return p
}

// setup is a Downloads over an in-memory store.
type setup struct {
	*download.Group
	store *storagetest.Memory
	log   *bytes.Buffer
	idle  func(*download.Download) // for tests that choose it late
}

func newSetup(t *testing.T, change func(*download.Options)) *setup {
	t.Helper()
	memory := storagetest.NewMemory(t)
	log := new(bytes.Buffer)
	opts := download.Options{
		Store: memory, Spools: spool.NewDir(t.TempDir(), 0, nil), MaxFetches: 8,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	opts.Health = storage.NewHealth(opts.Logger, "content")
	if change != nil {
		change(&opts)
	}
	s := &setup{Group: download.NewGroup(opts), store: memory, log: log}
	t.Cleanup(s.Close)
	return s
}

func (s *setup) reader(t *testing.T, ctx context.Context, dgst digest.Digest, src download.Source) *download.Reader {
	t.Helper()
	obj, r, err := s.Open(ctx, dgst, src)
	if err != nil || obj != nil {
		t.Fatalf("Open: object %v, error %v; want a reader", obj, err)
	}
	return r
}

func (s *setup) stored(t *testing.T, dgst digest.Digest) bool {
	t.Helper()
	_, err := s.store.Stat(t.Context(), dgst)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func readAll(r *download.Reader) ([]byte, error) {
	if _, err := r.Wait(0, -1); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestOneDownloadManyReaders(t *testing.T) {
	for _, noSize := range []bool{false, true} {
		t.Run(fmt.Sprintf("noSize=%v", noSize), func(t *testing.T) {
			s := newSetup(t, nil)
			o := &origin{body: random(3 << 20), noSize: noSize}
			dgst := digest.FromBytes(o.body)
			var wg sync.WaitGroup
			for range 32 {
				obj, r, err := s.Open(t.Context(), dgst, o.source(ours))
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					var got []byte
					if r != nil {
						defer r.Close()
						got, err = readAll(r)
					} else {
						defer obj.Content.Close()
						got, err = io.ReadAll(obj.Content)
					}
					if err != nil || !bytes.Equal(got, o.body) {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				})
			}
			wg.Wait()
			if err := s.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if asked := o.asked(); len(asked) != 1 {
				t.Errorf("upstream was asked %v, want once", asked)
			}
			obj, _, err := s.Open(t.Context(), dgst, o.source(ours))
			if err != nil || obj == nil {
				t.Fatalf("after the download: object %v, %v", obj, err)
			}
			obj.Content.Close()
		})
	}
}

// What becomes of a download that its only client leaves is for Idle to say.
func TestClientLeaves(t *testing.T) {
	for _, tc := range []struct {
		name   string
		idle   func(*download.Download)
		stored bool
	}{
		{"completed without clients", func(f *download.Download) { go f.Complete(context.Background()) }, true},
		{"given up", func(f *download.Download) { f.Abandon() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSetup(t, func(o *download.Options) { o.OnUnattended = tc.idle })
			o := &origin{body: random(1 << 20), step: make(chan int)}
			dgst := digest.FromBytes(o.body)
			r := s.reader(t, t.Context(), dgst, o.source(ours))
			o.step <- 100 << 10
			if _, err := r.Wait(0, -1); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 50<<10)); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if tc.stored {
				o.step <- 1 << 20
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.stored(t, dgst); got != tc.stored {
				t.Errorf("stored: %v, want %v", got, tc.stored)
			}
			if asked := o.asked(); len(asked) != 1 {
				t.Errorf("upstream was asked %v, want once", asked)
			}
		})
	}
}

// While nobody decides, a left download pauses without its connection, and the
// next client resumes it where it stopped.
func TestUnattendedDownloadPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.OnUnattended = func(*download.Download) {} })
		defer s.Close()
		o := &origin{body: random(1 << 20), step: make(chan int)}
		dgst := digest.FromBytes(o.body)
		r := s.reader(t, t.Context(), dgst, o.source(ours))
		o.step <- 64 << 10
		synctest.Wait()
		r.Close()
		o.step <- 64 << 10
		time.Sleep(2 * time.Second) // of the bubble's clock
		synctest.Wait()
		if o.closed != 1 {
			t.Errorf("%d streams were closed while nobody wanted the download, want 1", o.closed)
		}
		again := s.reader(t, t.Context(), dgst, o.source(ours))
		defer again.Close()
		if !again.Joined() {
			t.Error("the second client did not join the paused download")
		}
		go func() { o.step <- 1 << 20 }()
		if got, err := readAll(again); err != nil || !bytes.Equal(got, o.body) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		want := []string{"0+-1", fmt.Sprintf("%d+-1 of a body under way", 128<<10)}
		if got := o.asked(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("upstream was asked %v, want %v", got, want)
		}
	})
}

func TestSlowReaderHoldsBackNobody(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(2 << 20), step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	slow := s.reader(t, t.Context(), dgst, o.source(ours))
	defer slow.Close()
	fast := s.reader(t, t.Context(), dgst, o.source(ours))
	defer fast.Close()
	close(o.step) // the download cannot end before both have joined it
	if got, err := readAll(fast); err != nil || !bytes.Equal(got, o.body) {
		t.Fatalf("fast: %d bytes, %v", len(got), err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(slow); err != nil || !bytes.Equal(got, o.body) {
		t.Errorf("slow, after all was over: %d bytes, %v", len(got), err)
	}
}

func TestCorruptContent(t *testing.T) {
	flip := func(p []byte) []byte { p[len(p)/2] ^= 1; return p }
	longer := func(p []byte) []byte { return append(p, 'x') }
	shorter := func(p []byte) []byte { return p[:len(p)-1] }
	for _, size := range []int{1000, 1 << 20} {
		for name, corrupt := range map[string]func([]byte) []byte{"flipped": flip, "longer": longer, "shorter": shorter} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				s := newSetup(t, nil)
				o := &origin{body: random(size), corrupt: corrupt}
				dgst := digest.FromBytes(o.body)
				r := s.reader(t, t.Context(), dgst, o.source(ours))
				defer r.Close()
				got, err := readAll(r)
				if !errors.Is(err, storage.ErrCorrupt) {
					t.Errorf("got %v, want ErrCorrupt", err)
				}
				if len(got) > max(0, size+1-spool.TailHold) {
					t.Errorf("a client got %d of %d corrupt bytes", len(got), size)
				}
				if s.stored(t, dgst) || o.rejected != 1 {
					t.Errorf("stored %v, rejected %d times; want never stored, rejected once", s.stored(t, dgst), o.rejected)
				}
			})
		}
	}
}

// Where no client has seen a byte of it, corrupt content is replaced unnoticed.
func TestCorruptContentIsFetchedElsewhere(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(10_000), better: true, corrupt: func(p []byte) []byte { p[0] ^= 1; return p }}
	dgst := digest.FromBytes(o.body)
	r := s.reader(t, t.Context(), dgst, o.source(ours))
	defer r.Close()
	if got, err := readAll(r); err != nil || !bytes.Equal(got, o.body) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if asked := o.asked(); len(asked) != 2 {
		t.Errorf("upstream was asked %v, want twice", asked)
	}
}

func TestUpstreamFailureReachesEveryReader(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(1 << 20), failAt: 300 << 10}
	dgst := digest.FromBytes(o.body)
	for range 3 {
		r := s.reader(t, t.Context(), dgst, o.source(ours))
		defer r.Close()
		if _, err := readAll(r); !errors.Is(err, errCut) {
			t.Errorf("got %v, want the upstream's error", err)
		}
	}
	if s.stored(t, dgst) {
		t.Error("half a content was stored")
	}
}

// A store that cannot take the content costs the cache entry, nobody's pull.
func TestStoreFailure(t *testing.T) {
	full := spool.NewDir(t.TempDir(), 1<<62, nil)
	for _, tc := range []struct {
		name   string
		change func(*download.Options)
		script func(*storagetest.Memory)
	}{
		{"no room for the spool", func(o *download.Options) { o.Spools = full }, nil},
		{"no directory for the spool", func(o *download.Options) { o.Spools = spool.NewDir("/nonexistent", 0, nil) }, nil},
		{"the commit fails", nil, func(m *storagetest.Memory) { m.FailCommit(errors.New("disk on fire")) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSetup(t, tc.change)
			if tc.script != nil {
				tc.script(s.store)
			}
			o := &origin{body: random(1 << 20)}
			dgst := digest.FromBytes(o.body)
			for range 3 {
				r := s.reader(t, t.Context(), dgst, o.source(ours))
				if got, err := readAll(r); err != nil || !bytes.Equal(got, o.body) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				r.Close()
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := bytes.Count(s.log.Bytes(), []byte("cannot store content")); n != 1 {
				t.Errorf("the log says %d times that content cannot be stored, want once:\n%s", n, s.log)
			}
		})
	}
}

// Content that is served past a failed store is still verified.
func TestStoreFailureHidesNoCorruption(t *testing.T) {
	s := newSetup(t, func(o *download.Options) { o.Spools = spool.NewDir(t.TempDir(), 1<<62, nil) })
	o := &origin{body: random(1 << 20), corrupt: func(p []byte) []byte { p[9] ^= 1; return p }}
	r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
	defer r.Close()
	if got, err := readAll(r); !errors.Is(err, storage.ErrCorrupt) || len(got) > len(o.body)-spool.TailHold {
		t.Errorf("got %d bytes, %v; want ErrCorrupt and a withheld tail", len(got), err)
	}
}

// A reader that joined another repository's download goes on from its own
// upstream when that one fails.
func TestForeignUpstreamFails(t *testing.T) {
	s := newSetup(t, nil)
	body := random(1 << 20)
	dgst := digest.FromBytes(body)
	broken := &origin{body: body, failAt: 300 << 10, step: make(chan int)}
	sane := &origin{body: body}
	first := s.reader(t, t.Context(), dgst, broken.source(theirs))
	defer first.Close()
	second := s.reader(t, t.Context(), dgst, sane.source(ours))
	defer second.Close()
	if !second.Joined() || second.Repository() != theirs {
		t.Fatalf("joined %v, repository %v", second.Joined(), second.Repository())
	}
	broken.step <- 1 << 20
	if got, err := readAll(second); err != nil || !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if want := fmt.Sprintf("[%d+-1 of a body under way]", 300<<10); fmt.Sprint(sane.asked()) != want {
		t.Errorf("the sane upstream was asked %v, want %v", sane.asked(), want)
	}
	if _, err := readAll(first); !errors.Is(err, errCut) {
		t.Errorf("the first reader got %v, want its upstream's failure", err)
	}
}

// If the size of a blob is unknown, the bytes that came before its source failed may
// be all of it: the withheld part stays hidden, also from those who could have
// gone on elsewhere.
func TestFailureOfUnknownSizeRevealsNothing(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(300 << 10), noSize: true, failAt: 300 << 10, step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	var readers []*download.Reader
	for _, repo := range []storage.RepoID{ours, theirs} {
		r := s.reader(t, t.Context(), dgst, o.source(repo))
		defer r.Close()
		readers = append(readers, r)
	}
	go func() { o.step <- 300 << 10 }()
	for _, r := range readers {
		if got, err := readAll(r); !errors.Is(err, errCut) || len(got) > len(o.body)-spool.TailHold {
			t.Errorf("got %d of %d bytes, %v", len(got), len(o.body), err)
		}
	}
}

func TestFetchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.MaxFetches = 2 })
		defer s.Close()
		var origins []*origin
		for range 4 {
			o := &origin{body: random(1000), step: make(chan int)}
			origins = append(origins, o)
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			defer r.Close()
		}
		running := func() (n int) {
			synctest.Wait()
			for _, o := range origins {
				n += len(o.asked())
			}
			return n
		}
		if got := running(); got != 2 {
			t.Errorf("%d downloads run, want 2", got)
		}
		for _, o := range origins {
			if len(o.asked()) > 0 {
				o.step <- 1000
				break
			}
		}
		if got := running(); got != 3 {
			t.Errorf("after one has ended %d have begun, want 3", got)
		}
	})
}

// The records about a blob are there before a lookup finds the content.
func TestVerifiedComesBeforeTheCommit(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(1000)}
	dgst := digest.FromBytes(o.body)
	src := o.source(ours)
	verified := false
	src.Verified = func(info storage.Info, proven bool) {
		verified = true
		if !proven {
			t.Error("the repository's own upstream delivered all of it, yet that proves nothing")
		}
		if info.Digest != dgst || info.Size != 1000 {
			t.Errorf("verified %v", info)
		}
		if s.stored(t, dgst) {
			t.Error("the content can be found before Verified was called")
		}
	}
	r := s.reader(t, t.Context(), dgst, src)
	defer r.Close()
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !verified || !s.stored(t, dgst) {
		t.Errorf("verified %v, stored %v", verified, s.stored(t, dgst))
	}
}
