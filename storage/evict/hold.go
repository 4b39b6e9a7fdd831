package evict

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// holdPatience is how long after the start nothing is evicted while the blobs to hold are
// not known: their records may be in a bucket that is unavailable.
const holdPatience = 30 * time.Second

// holds are the blobs that are kept from eviction, as an open blob is.
type holds struct {
	turn  sync.Mutex // of the calls of Hold
	slots map[key]slot
	once  sync.Once
	first chan struct{} // closed after the first call
}

func newHolds() holds { return holds{slots: make(map[key]slot), first: make(chan struct{})} }

// Hold keeps blobs from eviction until the next call, which names all that are to be kept
// from then on. Contents that are not stored have no effect. Those that are not held any more
// count as used now.
func (s *Store) Hold(ctx context.Context, contents []digest.Digest) {
	s.holds.turn.Lock()
	defer s.holds.turn.Unlock()
	wanted := make(map[key]bool, len(contents))
	for _, dgst := range contents {
		if ctx.Err() != nil {
			return
		}
		k := keyOf(dgst)
		wanted[k] = true
		if held, ok := s.holds.slots[k]; !ok || s.letGo(k, held, false) {
			s.hold(ctx, dgst, k)
		}
	}
	for k, held := range s.holds.slots {
		if !wanted[k] {
			s.letGo(k, held, true)
		}
	}
	s.holds.once.Do(func() { close(s.holds.first) })
}

// hold pins a blob, if it is stored.
func (s *Store) hold(ctx context.Context, dgst digest.Digest, k key) {
	i := s.inventory
	deletions := i.deletions.Load()
	i.mu.Lock()
	_, known := i.index.lru.find(k)
	i.mu.Unlock()
	if known == nil {
		info, err := s.next.Stat(ctx, dgst)
		if err != nil {
			return
		}
		i.mu.Lock()
		i.discover(dgst, info.Size, deletions)
		i.mu.Unlock()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e := i.index.lru.find(k)
	if e == nil || e.phase != idle && e.phase != pinned {
		return // it comes or goes at the moment: the next call looks again
	}
	i.index.pin(slot)
	s.holds.slots[k] = slot
}

// letGo ends the hold of a blob, if that was deleted or is not wanted any more. It reports
// whether the hold has ended.
func (s *Store) letGo(k key, held slot, unwanted bool) bool {
	i := s.inventory
	i.mu.Lock()
	deleted := i.index.lru.at(held).phase == detached
	i.mu.Unlock()
	if !deleted && !unwanted {
		return false
	}
	delete(s.holds.slots, k)
	s.unpin(held)
	return true
}

// awaitHold returns when the blobs to hold are known, after some time, or when the context
// ends.
func (v *evictor) awaitHold(ctx context.Context) {
	if !v.opts.Holds {
		return
	}
	timer := time.NewTimer(holdPatience)
	defer timer.Stop()
	select {
	case <-v.held:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hold keeps the pinned blobs of a shared store from leaving, also those that leave already.
func (t *tenure) hold() {
	if t.opts.Pinned == nil {
		return
	}
	pinnedContents := t.opts.Pinned()
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now().UnixNano()
	wanted := make(map[slot]bool, len(pinnedContents))
	for _, dgst := range pinnedContents {
		s, e := i.index.lru.find(keyOf(dgst))
		if e == nil {
			continue
		}
		wanted[s] = true
		if t.held[s] {
			continue
		}
		if _, leaves := t.leaving[s]; leaves {
			delete(t.leaving, s)
			i.index.finishDelete(s, false, now)
		}
		i.index.pin(s)
		t.held[s] = true
	}
	for s := range t.held {
		if !wanted[s] {
			i.index.touch(s, now)
			i.index.unpin(s)
			delete(t.held, s)
		}
	}
}
