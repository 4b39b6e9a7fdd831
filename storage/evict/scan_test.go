package evict_test

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// crowd is a store that says it has many blobs beside those that it has. It
// takes a while to list them.
type crowd struct {
	*storagetest.Memory
	n       int // blobs of one byte each, the lower its number the older
	listing time.Duration

	mu      sync.Mutex
	broken  error // of All
	deleted []int
}

func (c *crowd) digest(i int) digest.Digest {
	var text [32]byte
	binary.BigEndian.PutUint64(text[:], uint64(i))
	return digest.NewDigestFromBytes(digest.SHA256, text[:])
}

func (c *crowd) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		c.mu.Lock()
		broken := c.broken
		c.mu.Unlock()
		if broken != nil {
			yield(storage.Entry{}, broken)
			return
		}
		start := time.Now().Add(-30 * 24 * time.Hour)
		for i := range c.n {
			if i%(c.n/10) == 0 {
				time.Sleep(c.listing / 10)
			}
			j := (i + c.n/3) % c.n // in no particular order
			e := storage.Entry{Info: storage.Info{Digest: c.digest(j), Size: 1}, Used: start.Add(time.Duration(j) * time.Second)}
			if !yield(e, nil) {
				return
			}
		}
		c.Memory.All(ctx)(yield)
	}
}

func (c *crowd) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	if strings.HasPrefix(dgst.Encoded(), "0000") {
		return storage.Info{Digest: dgst, Size: 1}, nil
	}
	return c.Memory.Stat(ctx, dgst)
}

func (c *crowd) Delete(ctx context.Context, dgst digest.Digest) error {
	if !strings.HasPrefix(dgst.Encoded(), "0000") {
		return c.Memory.Delete(ctx, dgst)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := strconv.ParseInt(dgst.Encoded()[:16], 16, 64)
	c.deleted = append(c.deleted, int(n))
	return err
}

func TestLoadsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200_000
		quota := evict.NewQuota(n + 1000)
		c := &crowd{Memory: storagetest.NewMemoryWithin(t, quota), n: n, listing: 10 * time.Second}
		began := time.Now()
		l := evict.New(c, quota, evict.Options{})
		defer func() { must(t, l.Close()) }()
		// Reading goes on at once, and is use.
		for i := range 10 {
			if _, err := l.Stat(t.Context(), c.digest(i)); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("serving waited %v", took)
		}
		// Storing waits for a moment, and is then refused: the cap might be
		// exceeded.
		if _, err := c.Spools().Create("", 1); !errors.Is(err, spool.ErrNoSpace) || !strings.Contains(err.Error(), "index") {
			t.Errorf("Create while loading: %v, want ErrNoSpace", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("storing waited %v, want two seconds", took)
		}
		if _, err := c.Spools().Create("", 1); !errors.Is(err, spool.ErrNoSpace) || time.Since(began) != 2*time.Second {
			t.Errorf("Create after %v: %v, want ErrNoSpace at once", time.Since(began), err)
		}
		<-l.Loaded()
		synctest.Wait()
		if got := l.Usage(); got.Stored+int64(len(c.deleted)) != n || got.Stored > n+1000-(n+1000)/20 {
			t.Errorf("%+v after %d deletions", got, len(c.deleted))
		}
		for i, deleted := range c.deleted {
			if deleted != i+10 { // the first ten were used
				t.Fatalf("deletion %d was of content %d, want the oldest first", i, deleted)
			}
		}
		storagetest.Commit(t, l, c.Spools(), []byte("stored"))
	})
}

// A listing that fails is tried again, and until then the cap is kept by
// refusing.
func TestCannotLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(100)
		c := &crowd{Memory: storagetest.NewMemoryWithin(t, quota), n: 10, broken: errors.New("input/output error")}
		l := evict.New(c, quota, evict.Options{})
		defer func() { must(t, l.Close()) }()
		time.Sleep(10 * time.Second)
		if _, err := c.Spools().Create("", 1); !errors.Is(err, spool.ErrNoSpace) {
			t.Errorf("Create: %v, want ErrNoSpace", err)
		}
		c.mu.Lock()
		c.broken = nil
		c.mu.Unlock()
		time.Sleep(time.Minute)
		storagetest.Commit(t, l, c.Spools(), []byte("stored"))
		if got := l.Usage(); got.Objects != 11 {
			t.Errorf("%+v, want 11 objects", got)
		}
	})
}

// The index follows content that another process stores or deletes.
func TestSharesItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 1000, evict.Options{})
		gone := l.add(300)
		l.add(300)
		must(t, l.memory.Delete(t.Context(), gone))
		other := storagetest.Commit(t, l.memory, spool.NewDir(t.TempDir(), 0, nil), make([]byte, 250))
		used := storagetest.Commit(t, l.memory, spool.NewDir(t.TempDir(), 0, nil), make([]byte, 50))
		l.use(used)
		l.expectUsage("one was used", evict.Usage{Stored: 650, Objects: 3})
		time.Sleep(2 * time.Hour)
		l.expectUsage("after a while", evict.Usage{Stored: 600, Objects: 3})
		last := l.add(400)
		l.expectOnly("the one that was used first went", used, other, last)
	})
}

// A word that another process has changed the store makes the index follow at once. Without an
// index, the store is listed for the stores below.
func TestFollowsAWord(t *testing.T) {
	for name, lazy := range map[string]bool{"with an index": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				changed := make(chan struct{}, 1)
				quota := evict.NewQuota(0)
				memory := storagetest.NewMemoryWithin(t, quota)
				l := evict.New(memory, quota, evict.Options{Lazy: lazy, Changed: changed})
				defer func() { must(t, l.Close()) }()
				gone := put(t, l, memory.Spools(), []byte("gone"))
				put(t, l, memory.Spools(), []byte("kept"))
				time.Sleep(time.Minute)
				must(t, memory.Delete(t.Context(), gone))
				before := memory.Calls("All")
				for n := range 2 {
					changed <- struct{}{}
					synctest.Wait()
					if got := memory.Calls("All") - before; got != n+1 {
						t.Errorf("%d listings after %d words", got, n+1)
					}
				}
				if got := l.Usage(); !lazy && got.Objects != 1 {
					t.Errorf("%+v, want one object", got)
				}
			})
		})
	}
}

// A manifest that is used all the time uses the blobs that it names, also those that another process
// has deleted. They are forgotten all the same.
func TestForgetsWhatOnlyItsManifestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(0)
		changed := make(chan struct{}, 1)
		slow := &crowd{Memory: storagetest.NewMemoryWithin(t, quota), n: 10, listing: 10 * time.Second}
		l := evict.New(slow, quota, evict.Options{Changed: changed})
		defer func() { must(t, l.Close()) }()
		<-l.Loaded()
		layer := put(t, l, slow.Spools(), []byte("a layer"))
		manifest := put(t, l, slow.Spools(), document(t, ocispec.Manifest{Layers: []ocispec.Descriptor{descriptor(layer)}}))
		before := l.Usage().Objects
		must(t, slow.Memory.Delete(t.Context(), layer))
		changed <- struct{}{}
		for range 10 {
			storagetest.Read(t, l, manifest)
			time.Sleep(3 * time.Second)
		}
		if got := l.Usage().Objects; got != before-1 {
			t.Errorf("%d objects, want %d", got, before-1)
		}
	})
}

// Content whose last use lies in the future counts as used at the start, and within
// an hour its time is set right. If the present time was the wrong one, the last use
// is what it was.
func TestAfterAWrongClock(t *testing.T) {
	const month = 30 * 24 * time.Hour
	for name, test := range map[string]struct {
		used, sleep time.Duration // the last use, and the time until the look
		kept        bool
		recorded    time.Duration // the last use that the store has then, if kept
	}{
		"right clock, unused":        {used: -29 * 24 * time.Hour, sleep: 2 * 24 * time.Hour},
		"years ahead":                {used: 10 * 365 * 24 * time.Hour, sleep: 2 * time.Hour, kept: true, recorded: time.Hour},
		"years ahead, unused since":  {used: 10 * 365 * 24 * time.Hour, sleep: month + 25*time.Hour},
		"a day ahead, unused since":  {used: 24 * time.Hour, sleep: month + 25*time.Hour},
		"seconds ahead":              {used: 10 * time.Second, sleep: 2 * time.Hour, kept: true, recorded: 10 * time.Second},
		"seconds ahead, then unused": {used: 10 * time.Second, sleep: month + 25*time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				quota := evict.NewQuota(0)
				memory := storagetest.NewMemoryWithin(t, quota)
				start := time.Now()
				dgst := storagetest.Commit(t, memory, memory.Spools(), []byte("content"))
				must(t, memory.Touch(t.Context(), dgst, start.Add(test.used)))
				l := evict.New(memory, quota, evict.Options{Touch: memory.Touch, MaxUnused: month})
				defer l.Close()
				<-l.Loaded()
				time.Sleep(test.sleep)
				synctest.Wait()
				var found []storage.Entry
				for entry, err := range memory.All(t.Context()) {
					must(t, err)
					found = append(found, entry)
				}
				if (len(found) == 1) != test.kept {
					t.Fatalf("%d contents are left", len(found))
				}
				if test.kept && found[0].Used.Sub(start).Abs()-test.recorded > 2*time.Minute {
					t.Errorf("used %v after the start, want %v", found[0].Used.Sub(start), test.recorded)
				}
			})
		})
	}
}

// A store that nothing limits is not indexed before free space is near its end. Uses from
// before count then.
func TestLazyIndex(t *testing.T) {
	for name, c := range map[string]struct {
		max    int64
		opts   evict.Options
		free   int64
		loaded bool
	}{
		"nothing limits it":        {0, evict.Options{}, 0, false},
		"much is free":             {0, evict.Options{MinFree: 1000}, 4000, false},
		"little is free":           {0, evict.Options{MinFree: 1000}, 3999, true},
		"a limit":                  {1 << 30, evict.Options{}, 0, true},
		"unused content shall go":  {0, evict.Options{MaxUnused: time.Hour}, 0, true},
		"a limit and enough space": {1 << 30, evict.Options{MinFree: 1000}, 1 << 30, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				quota := evict.NewQuota(c.max)
				m := storagetest.NewMemoryWithin(t, quota)
				free := c.free
				c.opts.Lazy, c.opts.Free = true, func() (int64, error) { return free, nil }
				l := evict.New(m, quota, c.opts)
				defer func() { must(t, l.Close()) }()
				time.Sleep(time.Hour)
				synctest.Wait()
				select {
				case <-l.Loaded():
					if !c.loaded {
						t.Error("the store was indexed")
					}
				default:
					if c.loaded {
						t.Error("the store was not indexed")
					}
				}
			})
		})
	}
}

func TestLazyIndexIsLoadedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(0)
		m := storagetest.NewMemoryWithin(t, quota)
		old := put(t, m, m.Spools(), []byte("not used since the start"))
		used := put(t, m, m.Spools(), []byte("used since the start"))
		must(t, m.Touch(t.Context(), old, time.Now().Add(-time.Hour)))
		must(t, m.Touch(t.Context(), used, time.Now().Add(-2*time.Hour)))
		var short atomic.Bool
		l := evict.New(m, quota, evict.Options{Lazy: true, MinFree: 1000, Free: func() (int64, error) {
			if _, err := m.Stat(context.Background(), old); err == nil && short.Load() {
				return 1049, nil // less than MinFree with its headroom, by one byte
			}
			return 1 << 20, nil
		}})
		defer func() { must(t, l.Close()) }()
		_, err := l.Stat(t.Context(), used)
		must(t, err)
		time.Sleep(time.Minute)
		short.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		expectStored(t, "the older use went", m, used)
	})
}

// A small filesystem may be full before the next look at its free space.
func TestLazyIndexIsLoadedForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(0)
		m := storagetest.NewMemoryWithin(t, quota)
		old := put(t, m, m.Spools(), []byte("not used since the start"))
		l := evict.New(m, quota, evict.Options{Lazy: true, MinFree: 1000, Free: func() (int64, error) { return 1 << 20, nil }})
		defer func() { must(t, l.Close()) }()
		time.Sleep(time.Minute)
		if removable, limited := quota.Removable("", 10); removable < 10 || limited != nil {
			t.Errorf("%d bytes can be removed, %v, want 10 before the index is there", removable, limited)
		}
		if !quota.MakeRoom("", 10) {
			t.Error("there is no room")
		}
		if _, err := m.Stat(t.Context(), old); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the content is still there: %v", err)
		}
	})
}

// A process that never needed its index writes down what its manifests refer to.
func TestLazyIndexRecordsReferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(0)
		m := storagetest.NewMemoryWithin(t, quota)
		layer := put(t, m, m.Spools(), []byte("a layer"))
		manifest := put(t, m, m.Spools(), document(t, ocispec.Manifest{Layers: []ocispec.Descriptor{descriptor(layer)}}))
		l := evict.New(m, quota, evict.Options{Lazy: true, Touch: m.Touch})
		time.Sleep(time.Hour)
		before := time.Now()
		_, err := l.Stat(t.Context(), manifest)
		must(t, err)
		must(t, l.Close())
		for entry, err := range m.All(t.Context()) {
			must(t, err)
			if entry.Used.Before(before) {
				t.Errorf("%s was used at %v, want %v", entry.Digest, entry.Used, before)
			}
		}
	})
}
