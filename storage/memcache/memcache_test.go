package memcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestHotConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Driver {
		m := storagetest.NewMemory(t)
		return storagetest.Decorate(m, memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 64 << 10}))
	})
}

func TestHotServesSmallContentsFromMemory(t *testing.T) {
	m := storagetest.NewMemory(t)
	committed := storagetest.Commit(t, memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 100}), m.Spools(), bytes.Repeat([]byte("s"), 100))
	hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 100})
	warmed := storagetest.Commit(t, hot, m.Spools(), []byte("committed here"))
	large := storagetest.Commit(t, hot, m.Spools(), bytes.Repeat([]byte("l"), 101))
	for name, want := range map[string]struct {
		dgst        digest.Digest
		size, opens int
	}{
		"committed through it": {warmed, 14, 0},
		"stored before":        {committed, 100, 1},
		"larger":               {large, 101, 10},
	} {
		before := m.Calls("Open")
		for range 10 {
			if got := storagetest.Read(t, hot, want.dgst); digest.FromBytes(got) != want.dgst {
				t.Errorf("%s: read %q", name, got)
			}
			if info, err := hot.Stat(t.Context(), want.dgst); info != (storage.Info{Digest: want.dgst, Size: int64(want.size)}) || err != nil {
				t.Errorf("%s: Stat = %+v, %v", name, info, err)
			}
		}
		if got := m.Calls("Open") - before; got != want.opens {
			t.Errorf("%s: %d opens below, want %d", name, got, want.opens)
		}
	}
}

// Sendfile needs the file itself.
func TestHotPassesLargeFilesThrough(t *testing.T) {
	s, err := disk.Open(t.TempDir(), disk.Options{})
	must(t, err)
	defer s.Close()
	hot := memcache.New(s, memcache.Options{MaxBytes: 1 << 20, MaxObject: 10})
	object, err := hot.Open(t.Context(), storagetest.Commit(t, hot, s.Spools(), []byte("more than ten bytes")))
	must(t, err)
	defer object.Content.Close()
	if _, ok := object.Content.(*os.File); !ok {
		t.Errorf("the content is a %T", object.Content)
	}
}

// Content that is not kept is still verified at each reading.
func TestHotKeepsSome(t *testing.T) {
	m := storagetest.NewMemory(t)
	hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 100, Keeps: func(first byte) bool { return first == '{' }})
	for body, opens := range map[string]int{"{}": 0, "layer": 2, "": 0} {
		dgst := storagetest.Commit(t, hot, m.Spools(), []byte(body))
		before := m.Calls("Open")
		for range 2 {
			if got := storagetest.Read(t, hot, dgst); string(got) != body {
				t.Errorf("read %q", got)
			}
		}
		if got := m.Calls("Open") - before; got != opens {
			t.Errorf("%q: %d opens below, want %d", body, got, opens)
		}
	}
}

func TestHotIsBounded(t *testing.T) {
	m := storagetest.NewMemory(t)
	const room = 4 * 1256 // for 4 objects of 1000 bytes, each with what it costs beside them
	hot := memcache.New(m, memcache.Options{MaxBytes: room, MaxObject: 1000})
	var digests []digest.Digest
	for i := range 6 {
		digests = append(digests, storagetest.Commit(t, hot, m.Spools(), bytes.Repeat([]byte{byte(i)}, 1000)))
	}
	for i, want := range []int{5: 0, 4: 0, 3: 0, 2: 0, 1: 1, 0: 1} {
		before := m.Calls("Stat")
		if _, err := hot.Stat(t.Context(), digests[i]); err != nil {
			t.Error(err)
		}
		if got := m.Calls("Stat") - before; got != want {
			t.Errorf("object %d: asked below %d times, want %d", i, got, want)
		}
	}
	// Deleting makes room for another, without the oldest going.
	must(t, hot.Delete(t.Context(), digests[5]))
	storagetest.Commit(t, hot, m.Spools(), bytes.Repeat([]byte("n"), 1000))
	before := m.Calls("Stat")
	for _, dgst := range digests[2:5] {
		if _, err := hot.Stat(t.Context(), dgst); err != nil {
			t.Error(err)
		}
	}
	if got := m.Calls("Stat") - before; got != 0 {
		t.Errorf("asked below %d times, want 0", got)
	}
}

func TestHotWithoutRoom(t *testing.T) {
	for _, room := range []int64{-1, 0, 10} {
		m := storagetest.NewMemory(t)
		hot := memcache.New(m, memcache.Options{MaxBytes: room, MaxObject: 1 << 20})
		for _, content := range []string{"", "x", "some more"} {
			dgst := storagetest.Commit(t, hot, m.Spools(), []byte(content))
			if got := storagetest.Read(t, hot, dgst); string(got) != content {
				t.Errorf("room for %d bytes: read %q", room, got)
			}
		}
		if n := m.Calls("Open"); n != 3 {
			t.Errorf("room for %d bytes: %d opens below, want 3", room, n)
		}
	}
}

// What another process deletes below stays in memory until the next listing, and then comes again
// from the store below.
func TestHotComparesAtAListing(t *testing.T) {
	for name, list := range map[string]struct {
		entries int // that are listed, before the listing is abandoned; -1: all
		left    bool
	}{"whole": {-1, false}, "abandoned": {1, true}} {
		m := storagetest.NewMemory(t)
		hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 100})
		gone := storagetest.Commit(t, hot, m.Spools(), []byte("gone"))
		kept := storagetest.Commit(t, hot, m.Spools(), []byte("kept"))
		storagetest.Commit(t, hot, m.Spools(), []byte("another"))
		must(t, m.Delete(t.Context(), gone))
		n := 0
		for _, err := range hot.All(t.Context()) {
			must(t, err)
			if n++; n == list.entries {
				break
			}
		}
		if _, err := hot.Stat(t.Context(), gone); (err == nil) != list.left || err != nil && !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: Stat of what is gone: %v", name, err)
		}
		before := m.Calls("Open")
		storagetest.Read(t, hot, kept)
		if got := m.Calls("Open") - before; got != 0 {
			t.Errorf("%s: %d opens of what is still there", name, got)
		}
		storagetest.Commit(t, hot, m.Spools(), []byte("gone"))
		storagetest.Read(t, hot, gone)
	}
}

// away is a store whose disk is away.
type away struct {
	storage.Store
}

func (away) All(context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) { yield(storage.Entry{}, errors.New("the volume is away")) }
}

func (away) Stat(context.Context, digest.Digest) (storage.Info, error) {
	return storage.Info{}, storage.ErrNotExist
}

// A disk that is away has lost nothing: what is in memory is served on.
func TestHotKeepsWhatItHasWhenTheDiskIsAway(t *testing.T) {
	m := storagetest.NewMemory(t)
	hot := memcache.New(away{m}, memcache.Options{MaxBytes: 1 << 20, MaxObject: 100})
	kept := storagetest.Commit(t, hot, m.Spools(), []byte("kept"))
	for range hot.All(t.Context()) { // to its end
	}
	if _, err := hot.Stat(t.Context(), kept); err != nil {
		t.Errorf("Stat of what is in memory: %v", err)
	}
}

// What can never stay in memory does not push out what is there.
func TestHotLeavesOutWhatIsTooLarge(t *testing.T) {
	m := storagetest.NewMemory(t)
	hot := memcache.New(m, memcache.Options{MaxBytes: 1000, MaxObject: 1 << 20})
	small := storagetest.Commit(t, hot, m.Spools(), []byte("small"))
	large := storagetest.Commit(t, hot, m.Spools(), bytes.Repeat([]byte("l"), 900))
	storagetest.Read(t, hot, large)
	before := m.Calls("Open")
	storagetest.Read(t, hot, small)
	if n := m.Calls("Open") - before; n != 0 {
		t.Errorf("%d opens below, want 0", n)
	}
}

// Two who read the same content into memory at once take its room once.
func TestHotCountsAnObjectOnce(t *testing.T) {
	m := storagetest.NewMemory(t)
	slow := slowStore{m, make(chan struct{}), make(chan struct{})}
	hot := memcache.New(slow, memcache.Options{MaxBytes: 2 * 1256, MaxObject: 1000})
	dgst := storagetest.Commit(t, m, m.Spools(), bytes.Repeat([]byte("a"), 1000))
	var opening sync.WaitGroup
	for range 2 {
		opening.Go(func() {
			if _, err := hot.Open(t.Context(), dgst); err != nil {
				t.Errorf("Open: %v", err)
			}
		})
	}
	<-slow.opened
	<-slow.opened
	close(slow.proceed)
	opening.Wait()
	storagetest.Commit(t, hot, m.Spools(), bytes.Repeat([]byte("b"), 1000))
	before := m.Calls("Stat")
	if _, err := hot.Stat(t.Context(), dgst); err != nil {
		t.Error(err)
	}
	if n := m.Calls("Stat") - before; n != 0 {
		t.Errorf("asked below %d times, want 0", n)
	}
}

func TestHotFailures(t *testing.T) {
	m := storagetest.NewMemory(t)
	hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10})
	fault := errors.New("scripted")
	content := []byte("content")
	dgst := digest.FromBytes(content)
	m.FailCommit(fault)
	if err := hot.Commit(t.Context(), dgst, storagetest.NewSpool(t, m.Spools(), content)); !errors.Is(err, fault) {
		t.Errorf("Commit: %v, want the fault", err)
	}
	if _, err := hot.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Open of what was not committed: %v, want ErrNotExist", err)
	}
	m.FailCommit(nil)

	// A spool that cannot be read any more costs the warmth, not the commit.
	spool, err := m.Spools().Create("", -1)
	must(t, err)
	_, err = spool.Write(content)
	must(t, errors.Join(err, spool.Complete()))
	must(t, memcache.New(closingStore{m}, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10}).Commit(t.Context(), dgst, spool))

	broken := memcache.New(brokenStore{m}, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10})
	for range 2 {
		// It counts as absent, so that it is fetched again.
		if object, err := broken.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Open = %v, %v, want ErrNotExist", object, err)
		}
	}
}

// closingStore takes the spool's file away once it is committed.
type closingStore struct{ storage.Store }

func (c closingStore) Commit(ctx context.Context, dgst digest.Digest, s *spool.Spool) error {
	return errors.Join(c.Store.Commit(ctx, dgst, s), s.Close())
}

// brokenStore says that its blobs are longer than they are.
type brokenStore struct{ storage.Store }

func (b brokenStore) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := b.Store.Open(ctx, dgst)
	if err == nil {
		object.Size++
	}
	return object, err
}

// slowStore stops in Open, after it has opened.
type slowStore struct {
	storage.Store
	opened, proceed chan struct{}
}

func (s slowStore) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := s.Store.Open(ctx, dgst)
	s.opened <- struct{}{}
	<-s.proceed
	return object, err
}

// A blob that is deleted while it is being read into memory does not stay
// there.
func TestHotDeleteWhileOpening(t *testing.T) {
	m := storagetest.NewMemory(t)
	dgst := storagetest.Commit(t, m, m.Spools(), []byte("content"))
	slow := slowStore{m, make(chan struct{}), make(chan struct{})}
	hot := memcache.New(slow, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10})
	var opening sync.WaitGroup
	opening.Go(func() {
		object, err := hot.Open(t.Context(), dgst)
		if err != nil {
			t.Errorf("Open: %v", err)
			return
		}
		if got, err := io.ReadAll(object.Content); string(got) != "content" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	<-slow.opened
	must(t, hot.Delete(t.Context(), dgst))
	close(slow.proceed)
	opening.Wait()
	if _, err := hot.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat after Delete: %v, want ErrNotExist", err)
	}
}

// Objects share bytes, and nothing else.
func TestHotConcurrently(t *testing.T) {
	m := storagetest.NewMemory(t)
	hot := memcache.New(m, memcache.Options{MaxBytes: 3000, MaxObject: 1000})
	var digests []digest.Digest
	for i := range 8 {
		digests = append(digests, storagetest.Commit(t, m, m.Spools(), bytes.Repeat([]byte{byte(i)}, 600)))
	}
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for i := range 200 {
				dgst := digests[i%len(digests)]
				object, err := hot.Open(t.Context(), dgst)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				content, err := io.ReadAll(object.Content)
				if digest.FromBytes(content) != dgst || err != nil {
					t.Errorf("read %d bytes, %v, which are not %s", len(content), err, dgst)
				}
			}
		})
	}
	readers.Wait()
}

func BenchmarkHotOpen(b *testing.B) {
	m := storagetest.NewMemory(b)
	hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 16})
	dgst := storagetest.Commit(b, hot, m.Spools(), bytes.Repeat([]byte("x"), 1000))
	b.ReportAllocs()
	for b.Loop() {
		object, err := hot.Open(b.Context(), dgst)
		if err != nil {
			b.Fatal(err)
		}
		object.Content.Close()
	}
}

// Bytes that the disk has changed never get into memory, and are replaced.
func TestHotVerifiesWhatItReads(t *testing.T) {
	for name, now := range map[string]string{"flipped": "cantent", "cut": "con", "grown": "content!", "emptied": ""} {
		for _, how := range []string{"deleted", "taken away", "stuck"} {
			t.Run(name+" "+how, func(t *testing.T) {
				s, root := newDisk(t)
				dgst := storagetest.Commit(t, s, s.Spools(), []byte("content"))
				spoil(t, root, dgst, now)
				opts := memcache.Options{MaxBytes: 1 << 20, MaxObject: 100}
				want, fault := storage.ErrNotExist, errors.New("scripted")
				var taken []digest.Digest
				switch how {
				case "taken away":
					opts.OnCorrupt = func(ctx context.Context, dgst digest.Digest) error {
						taken = append(taken, dgst)
						return s.Delete(ctx, dgst)
					}
				case "stuck":
					want = fault
					opts.OnCorrupt = func(context.Context, digest.Digest) error { return fault }
				}
				hot := memcache.New(s, opts)
				for range 2 {
					if _, err := hot.Open(t.Context(), dgst); !errors.Is(err, want) || !errors.Is(err, storage.ErrNotExist) {
						t.Errorf("Open: %v, want %v", err, want)
					}
				}
				if how == "stuck" {
					return
				}
				if len(taken) > 1 || len(taken) == 0 && how == "taken away" {
					t.Errorf("taken away: %q", taken)
				}
				if _, err := s.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Stat below: %v, want ErrNotExist", err)
				}
				storagetest.Commit(t, hot, s.Spools(), []byte("content"))
				if got := storagetest.Read(t, hot, dgst); string(got) != "content" {
					t.Errorf("read %q after it came again", got)
				}
			})
		}
	}
}
