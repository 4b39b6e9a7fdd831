package evict_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// slow is a store that takes long to delete.
type slow struct {
	storage.Store
	takes time.Duration
}

func (s slow) Delete(ctx context.Context, dgst digest.Digest) error {
	time.Sleep(s.takes)
	return s.Store.Delete(ctx, dgst)
}

// A download that cannot wait is refused at once, even while the evictor is busy,
// and reserves nothing.
func TestDoesNotHoldUpTheUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(1000)
		memory := storagetest.NewMemoryWithin(t, quota)
		l := evict.New(slow{memory, 500 * time.Millisecond}, quota, evict.Options{})
		t.Cleanup(func() { must(t, l.Close()) })
		<-l.Loaded()
		old := bytes.Repeat([]byte("a"), 300)
		put(t, l, memory.Spools(), old)
		put(t, l, memory.Spools(), bytes.Repeat([]byte("b"), 300))
		waits := make(chan *spool.Spool)
		go func() {
			s, err := memory.Spools().Create("", 500)
			if err != nil {
				t.Error(err)
			}
			waits <- s
		}()
		synctest.Wait() // old is being deleted for it

		began := time.Now()
		if _, err := memory.Spools().CreateNoWait("", 450); !errors.Is(err, spool.ErrBusy) {
			t.Errorf("CreateNoWait: %v, want ErrBusy", err)
		}
		again, err := memory.Spools().CreateNoWait("", 300) // fits as it is
		must(t, err)
		_, err = again.Write(old)
		must(t, err)
		must(t, again.Complete())
		if err := l.Commit(t.Context(), digest.FromBytes(old), again); !errors.Is(err, spool.ErrBusy) {
			t.Errorf("committing what is being deleted: %v, want ErrBusy", err)
		}
		must(t, again.Close())
		if took := time.Since(began); took != 0 {
			t.Errorf("it was held up for %v", took)
		}
		must(t, (<-waits).Close())
		if got, want := l.Usage(), (evict.Usage{Stored: 300, Objects: 1}); got != want {
			t.Errorf("%+v in the end, want %+v", got, want)
		}
	})
}

// A download waits for room, though not for long: its clients wait with it.
func TestWaitsForRoom(t *testing.T) {
	for _, test := range []struct {
		takes time.Duration
		waits time.Duration
		err   error
	}{
		{takes: 900 * time.Millisecond, waits: 900 * time.Millisecond},
		{takes: time.Minute, waits: time.Second, err: spool.ErrNoSpace},
	} {
		synctest.Test(t, func(t *testing.T) {
			quota := evict.NewQuota(1000)
			memory := storagetest.NewMemoryWithin(t, quota)
			l := evict.New(slow{memory, test.takes}, quota, evict.Options{})
			t.Cleanup(func() { must(t, l.Close()) })
			<-l.Loaded()
			put(t, l, memory.Spools(), []byte("0123456789"))
			began := time.Now()
			s, err := memory.Spools().Create("", 1000)
			if !errors.Is(err, test.err) || time.Since(began) != test.waits {
				t.Errorf("a deletion that takes %v: %v after %v, want %v after %v", test.takes, err, time.Since(began), test.err, test.waits)
			}
			if err == nil {
				must(t, s.Close())
			}
		})
	}
}

// Records take part in the limit: content goes for them, and a download that does not
// fit beside them is refused.
func TestRecordsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(1000)
		memory := storagetest.NewMemoryWithin(t, quota)
		l := evict.New(memory, quota, evict.Options{})
		t.Cleanup(func() { must(t, l.Close()) })
		<-l.Loaded()
		put(t, l, memory.Spools(), bytes.Repeat([]byte("a"), 400))
		quota.AddRecords(300)
		if s, err := memory.Spools().Create("", 800); err == nil {
			t.Error("800 bytes fit beside 300 of records")
			s.Close()
		}
		s, err := memory.Spools().Create("", 600)
		must(t, err)
		must(t, s.Close())
		synctest.Wait()
		if _, err := l.Stat(t.Context(), digest.FromBytes(bytes.Repeat([]byte("a"), 400))); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the content is still there: %v", err)
		}
		quota.AddRecords(-300)
		s, err = memory.Spools().Create("", 900)
		must(t, err)
		must(t, s.Close())
	})
}
