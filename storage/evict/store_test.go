package evict_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestConformance(t *testing.T) {
	const limit = 1 << 30
	limited := func(t *testing.T, d storage.Driver, next storage.Store, quota *evict.Quota) storage.Driver {
		toucher, _ := storage.As[storage.Toucher](d)
		l := evict.New(next, quota, evict.Options{
			MaxUnused: time.Hour, MinFree: 1, Free: d.Spools().Free, Touch: toucher.Touch,
		})
		t.Cleanup(func() { must(t, l.Close()) })
		return storagetest.Decorate(d, l)
	}
	t.Run("memory", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Driver {
			quota := evict.NewQuota(limit)
			m := storagetest.NewMemoryWithin(t, quota)
			return limited(t, m, m, quota)
		})
	})
	t.Run("disk", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Driver {
			quota := evict.NewQuota(limit)
			s := openDisk(t, t.TempDir(), quota)
			front := memcache.New(s, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10})
			return limited(t, s, front, quota)
		})
	})
}

func openDisk(t testing.TB, root string, quota spool.Quota) *disk.Store {
	t.Helper()
	s, err := disk.Open(root, disk.Options{Quota: quota})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// limited is a Store over one in memory.
type limited struct {
	*evict.Store
	t       *testing.T
	quota   *evict.Quota
	memory  *storagetest.Memory
	metrics *prometheus.Registry
	log     bytes.Buffer
	made    int
}

// newLimited makes a Store that has loaded its index. It is for use in a bubble.
func newLimited(t *testing.T, maxBytes int64, opts evict.Options) *limited {
	quota := evict.NewQuota(maxBytes)
	return newLimitedOver(t, storagetest.NewMemoryWithin(t, quota), quota, opts)
}

// newLimitedOver makes a Store over one that may have content.
func newLimitedOver(t *testing.T, memory *storagetest.Memory, quota *evict.Quota, opts evict.Options) *limited {
	l := &limited{t: t, quota: quota, memory: memory, metrics: prometheus.NewRegistry()}
	opts.Touch, opts.Metrics = l.memory.Touch, evict.NewMetrics(l.metrics)
	opts.Logger = slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	l.Store = evict.New(l.memory, quota, opts)
	t.Cleanup(func() { must(t, l.Close()) })
	<-l.Loaded()
	return l
}

// put stores a blob, closes its spool and lets the evictor do its work. A
// second passes.
func put(t *testing.T, store storage.Store, spools *spool.Dir, content []byte) digest.Digest {
	t.Helper()
	s, err := spools.Create("", int64(len(content)))
	must(t, err)
	_, err = s.Write(content)
	must(t, err)
	must(t, s.Complete())
	dgst := digest.FromBytes(content)
	must(t, store.Commit(t.Context(), dgst, s))
	must(t, s.Close())
	time.Sleep(time.Second)
	synctest.Wait()
	return dgst
}

func (l *limited) put(content []byte) digest.Digest {
	l.t.Helper()
	return put(l.t, l, l.memory.Spools(), content)
}

// add stores a new blob of a size.
func (l *limited) add(size int) digest.Digest {
	l.t.Helper()
	l.made++
	return l.put(fmt.Appendf(nil, "%0*d", size, l.made))
}

// use makes a Stat and lets a second pass.
func (l *limited) use(dgst digest.Digest) {
	l.t.Helper()
	_, err := l.Stat(l.t.Context(), dgst)
	must(l.t, err)
	time.Sleep(time.Second)
	synctest.Wait()
}

// expectOnly fails the test unless exactly some blobs are stored.
func (l *limited) expectOnly(what string, want ...digest.Digest) {
	l.t.Helper()
	expectStored(l.t, what, l.memory, want...)
}

func expectStored(t *testing.T, what string, store storage.Store, want ...digest.Digest) {
	t.Helper()
	have := make(map[digest.Digest]bool)
	for entry, err := range store.All(t.Context()) {
		must(t, err)
		have[entry.Digest] = true
	}
	for i, dgst := range want {
		if !have[dgst] {
			t.Errorf("%s: content %d is gone", what, i)
		}
		delete(have, dgst)
	}
	if len(have) > 0 {
		t.Errorf("%s: %d contents more than the %d that were to stay", what, len(have), len(want))
	}
}

func (l *limited) expectUsage(what string, want evict.Usage) {
	l.t.Helper()
	if got := l.Usage(); got != want {
		l.t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

// expectEvicted fails the test unless that many bytes were evicted for each reason.
func (l *limited) expectEvicted(size, free, unused, block int) {
	l.t.Helper()
	want := fmt.Sprintf(`# HELP weir_store_evicted_bytes_total Bytes of content that were evicted, by the reason: size (the limit of the store), block (that of a repository block), free (its filesystem ran short of space) or unused (not used for too long).
# TYPE weir_store_evicted_bytes_total counter
weir_store_evicted_bytes_total{reason="block"} %d
weir_store_evicted_bytes_total{reason="free"} %d
weir_store_evicted_bytes_total{reason="size"} %d
weir_store_evicted_bytes_total{reason="unused"} %d
`, block, free, size, unused)
	if err := testutil.GatherAndCompare(l.metrics, strings.NewReader(want), "weir_store_evicted_bytes_total"); err != nil {
		l.t.Error(err)
	}
}

func TestEvictsWhatWasUsedLeastRecently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{}) // of which 50 are kept free
		var d []digest.Digest
		for range 8 {
			d = append(d, l.add(100))
		}
		// A Stat, an Open and a Commit are each a use.
		l.use(d[0])
		storagetest.Read(t, l, d[1])
		time.Sleep(time.Second)
		l.put(fmt.Appendf(nil, "%0100d", 3))
		d = append(d, l.add(100))
		l.expectOnly("below the cap", d...)
		d = append(d, l.add(100), l.add(100))
		l.expectOnly("the fourth and fifth went", d[0], d[1], d[2], d[5], d[6], d[7], d[8], d[9], d[10])
		l.expectUsage("at the end", evict.Usage{Stored: 900, Objects: 9})
		l.expectEvicted(200, 0, 0, 0)
		if n := testutil.CollectAndCount(l.metrics, "weir_store_evicted_age_seconds"); n != 1 {
			t.Errorf("%d histograms of age", n)
		}
	})
}

// Content that is larger than the limit less the headroom is stored, and stays.
func TestKeepsOneContentThatFillsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{})
		l.add(500)
		full := l.add(1000)
		time.Sleep(time.Hour)
		l.expectOnly("as large as the cap", full)
		s, err := l.memory.Spools().Create("", 1001)
		var refusal *evict.FullError
		if !errors.Is(err, spool.ErrNoSpace) || !errors.As(err, &refusal) || refusal.Reason != evict.InUse || refusal.Max != 1000 {
			t.Errorf("larger than the cap: %v, %v, want ErrNoSpace and a FullError that names the limit", s, err)
		}
		time.Sleep(time.Hour)
		l.expectOnly("nothing went for what does not fit", full)
	})
}

func TestNeverEvictsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{MaxUnused: time.Hour})
		open := l.add(600)
		object, err := l.Open(t.Context(), open)
		must(t, err)
		other := l.add(300)
		if _, err := l.memory.Spools().Create("", 401); !errors.Is(err, spool.ErrNoSpace) || !strings.Contains(err.Error(), "being read") {
			t.Errorf("beside what is open: %v, want ErrNoSpace", err)
		}
		l.expectOnly("neither was to go", open, other)
		l.add(400)
		time.Sleep(2 * time.Hour)
		l.expectOnly("open for hours", open)
		if content, err := io.ReadAll(object.Content); len(content) != 600 || err != nil {
			t.Errorf("read %d bytes, %v", len(content), err)
		}
		must(t, object.Content.Close())
		if err := object.Content.Close(); err == nil {
			t.Error("a second Close succeeds")
		}
		l.expectUsage("closed", evict.Usage{Stored: 600, Objects: 1})
		time.Sleep(2 * time.Hour)
		l.expectOnly("an hour after it was closed")
		l.expectUsage("at the end", evict.Usage{})
		l.expectEvicted(300, 0, 1000, 0)
	})
}

// A reader of a download reads the spool's file after that has been stored.
func TestNeverEvictsWhatADownloadStillReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{MaxUnused: time.Minute})
		s, err := l.memory.Spools().Create("", 100)
		must(t, err)
		l.expectUsage("announced", evict.Usage{Reserved: 100})
		_, err = s.Write(make([]byte, 100))
		must(t, err)
		l.expectUsage("written", evict.Usage{Reserved: 100})
		must(t, s.Complete())
		dgst := digest.FromBytes(make([]byte, 100))
		must(t, l.Commit(t.Context(), dgst, s))
		l.expectUsage("committed", evict.Usage{Stored: 100, Pinned: 100, Objects: 1})
		r, err := s.NewReader(t.Context())
		must(t, err)
		must(t, s.Close())
		time.Sleep(time.Hour)
		l.expectOnly("a reader is left", dgst)
		must(t, r.Close())
		l.expectUsage("read", evict.Usage{Stored: 100, Objects: 1})
		time.Sleep(time.Hour)
		l.expectOnly("none is left")
	})
}

func TestMaxUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{MaxUnused: 30 * 24 * time.Hour})
		idle, used := l.add(100), l.add(50)
		for range 4 {
			time.Sleep(10 * 24 * time.Hour)
			l.use(used)
		}
		l.expectOnly("after forty days", used)
		l.expectEvicted(0, 0, 100, 0)
		if _, err := l.Stat(t.Context(), idle); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Stat of what was evicted: %v", err)
		}
		if _, err := l.Open(t.Context(), idle); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Open of what was evicted: %v", err)
		}
	})
}

func TestMinFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var elsewhere atomic.Int64
		var counted atomic.Pointer[limited]
		l := newLimited(t, 0, evict.Options{MinFree: 1000, Free: func() (int64, error) {
			if l := counted.Load(); l != nil {
				return 2000 - elsewhere.Load() - l.Usage().Stored, nil
			}
			return 2000, nil
		}})
		counted.Store(l)
		a, b, c := l.add(300), l.add(300), l.add(300)
		time.Sleep(time.Hour)
		l.expectOnly("1100 free of 1000 and headroom", a, b, c)
		elsewhere.Store(200)
		time.Sleep(time.Minute)
		l.expectOnly("900 free", b, c)
		l.expectEvicted(0, 300, 0, 0)

		if l.quota.MakeRoom("", 601) {
			t.Error("MakeRoom of more than there is")
		}
		l.expectOnly("nothing went in vain", b, c)
		if !l.quota.MakeRoom("", 100) {
			t.Error("MakeRoom of what there is fails")
		}
		l.expectOnly("room was made", c)
		object, err := l.Open(t.Context(), c)
		must(t, err)
		if l.quota.MakeRoom("", 1) {
			t.Error("MakeRoom of what is open")
		}
		must(t, object.Content.Close())
	})
}

func TestCannotDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{})
		a, b := l.add(400), l.add(400)
		broken := errors.New("read-only file system")
		l.memory.FailDelete(broken)
		for range 2 {
			if _, err := l.memory.Spools().Create("", 400); !errors.Is(err, spool.ErrNoSpace) || !errors.Is(err, broken) {
				t.Errorf("Create: %v, want ErrNoSpace and why", err)
			}
		}
		if l.quota.MakeRoom("", 100) {
			t.Error("MakeRoom succeeds")
		}
		time.Sleep(time.Minute)
		l.expectOnly("nothing can go", a, b)
		l.expectUsage("nothing went", evict.Usage{Stored: 800, Objects: 2})
		if n := strings.Count(l.log.String(), "cannot delete content"); n != 1 {
			t.Errorf("the log says so %d times:\n%s", n, &l.log)
		}
		l.memory.FailDelete(nil)
		s, err := l.memory.Spools().Create("", 150) // fits as it is
		must(t, err)
		time.Sleep(time.Minute)
		must(t, s.Close())
		c := l.add(900)
		l.expectOnly("mended", c)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !strings.Contains(l.log.String(), "content can be deleted again") {
			t.Errorf("the log does not say that it is mended:\n%s", &l.log)
		}
	})
}

// slowOpen is a store that lets something happen during an Open.
type slowOpen struct {
	storage.Store
	during func()
}

func (s slowOpen) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := s.Store.Open(ctx, dgst)
	if s.during != nil {
		s.during()
	}
	return object, err
}

// A blob that is opened before the index knows it may begin to be deleted before
// it is pinned. It is then not there, and its file is closed.
func TestOpenOfContentThatIsBeingDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(1000)
		memory := storagetest.NewMemoryWithin(t, quota)
		var below slowOpen
		below.Store = slow{memory, time.Second}
		store := evict.New(&below, quota, evict.Options{})
		t.Cleanup(func() { must(t, store.Close()) })
		<-store.Loaded()
		dgst := storagetest.Commit(t, memory, spool.NewDir(t.TempDir(), 0, nil), make([]byte, 2000)) // by another process
		below.during = func() {
			below.during = nil                      // only the first time: references are read through Open too
			_, err := store.Stat(t.Context(), dgst) // the index learns of it, and the evictor begins
			must(t, err)
			synctest.Wait()
		}
		if object, err := store.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Open: %v, %v, want ErrNotExist", object, err)
		}
		time.Sleep(2 * time.Second)
		if got := store.Usage(); got != (evict.Usage{}) {
			t.Errorf("%+v after the deletion", got)
		}
	})
}

// failingCommit is a store that has a blob although its Commit fails.
type failingCommit struct {
	storage.Store
	seen func(digest.Digest)
}

func (s failingCommit) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	err := s.Store.Commit(ctx, dgst, sp)
	s.seen(dgst)
	return errors.Join(err, errors.New("cannot flush the directory"))
}

// The bytes of a blob whose commit fails after it has become visible count once
// its reader has gone and it is used again.
func TestCommitThatFailsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(1000)
		memory := storagetest.NewMemoryWithin(t, quota)
		var store *evict.Store
		var reading *storage.Object
		store = evict.New(failingCommit{memory, func(dgst digest.Digest) {
			var err error
			reading, err = store.Open(t.Context(), dgst)
			must(t, err)
		}}, quota, evict.Options{})
		t.Cleanup(func() { must(t, store.Close()) })
		<-store.Loaded()
		s, err := memory.Spools().Create("", 100)
		must(t, err)
		_, err = s.Write(make([]byte, 100))
		must(t, err)
		must(t, s.Complete())
		dgst := digest.FromBytes(make([]byte, 100))
		if err := store.Commit(t.Context(), dgst, s); err == nil {
			t.Error("the commit succeeds")
		}
		must(t, s.Close())
		must(t, reading.Content.Close())
		if got := store.Usage(); got != (evict.Usage{}) {
			t.Errorf("%+v after the commit failed", got)
		}
		_, err = store.Stat(t.Context(), dgst)
		must(t, err)
		if got := (evict.Usage{Stored: 100, Objects: 1}); store.Usage() != got {
			t.Errorf("%+v, want %+v", store.Usage(), got)
		}
	})
}
