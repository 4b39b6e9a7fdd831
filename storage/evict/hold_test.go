package evict_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
)

// Content that is held is not evicted, whatever the limit, until it is not held any more.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 100, evict.Options{Holds: true, MaxUnused: time.Hour})
		synctest.Wait()
		first, second := l.add(20), l.add(20)
		l.Hold(t.Context(), []digest.Digest{first, digest.FromString("not stored")})
		for range 20 {
			l.add(20)
			synctest.Wait()
		}
		if _, err := l.memory.Stat(t.Context(), first); err != nil {
			t.Errorf("content that is held: %v", err)
		}
		if _, err := l.memory.Stat(t.Context(), second); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("content that is not held: %v", err)
		}
		time.Sleep(3 * time.Hour)
		l.expectOnly("after the longest time without a use", first)
		// It is deleted, and comes back.
		must(t, l.Delete(t.Context(), first))
		l.Hold(t.Context(), []digest.Digest{first})
		l.expectUsage("after its deletion", evict.Usage{})
		third := l.add(20)
		l.Hold(t.Context(), []digest.Digest{first, third})
		l.Hold(t.Context(), nil)
		time.Sleep(3 * time.Hour)
		l.expectOnly("after the end of the hold")
	})
}

// Pinned blobs of a shared store do not leave, and stop leaving if they did.
func TestPinnedContentOfABucketStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		var pinned []digest.Digest
		for range 2 {
			pinned = append(pinned, s.put("pinned"+string(rune('a'+len(pinned))), 10))
		}
		other := s.put("other", 10)
		var kept atomic.Pointer[[]digest.Digest]
		kept.Store(new(pinned[:1]))
		s.evictor(t, func(o *evict.SharedOptions) {
			o.MaxUnused, o.Pinned = time.Hour, func() []digest.Digest { return *kept.Load() }
		})
		time.Sleep(time.Hour + 2*time.Minute)
		kept.Store(&pinned) // the second one leaves already
		time.Sleep(6 * time.Hour)
		if !s.has(pinned[0]) || !s.has(pinned[1]) || s.has(other) {
			t.Errorf("has %v, %v and %v, want the first two", s.has(pinned[0]), s.has(pinned[1]), s.has(other))
		}
		kept.Store(new([]digest.Digest))
		time.Sleep(6 * time.Hour)
		if s.has(pinned[0]) || s.has(pinned[1]) {
			t.Error("contents that are pinned no more stay")
		}
	})
}
