package evict

import (
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// evictionPatience is how long a download waits until enough has been
	// deleted. Its clients wait with it, so it is short: on a disk that takes
	// longer, the content is streamed past the cache.
	evictionPatience = time.Second
	// loadPatience is how long after startup a download waits for the index to
	// load. A local disk lists 100,000 blobs in that time; on a slower one the
	// first downloads are streamed past the cache.
	loadPatience = 2 * time.Second
)

// Quota is the [spool.Quota] of a store with a limit. It exists before the driver,
// which needs it for its spools, and before the [Store] that evicts on its behalf.
type Quota struct{ inventory *inventory }

var _ spool.Quota = (*Quota)(nil)

// NewQuota returns a quota of maxBytes for content and running downloads together.
// Zero means no limit: downloads then wait for free space in the filesystem only.
// With a limit, nothing can be reserved until [New] has loaded the index.
func NewQuota(maxBytes int64) *Quota { return &Quota{inventory: newInventory(maxBytes)} }

// Check returns a [*FullError] if n bytes could not be reserved, whatever is
// evicted. It reserves and evicts nothing.
func (q *Quota) Check(owner string, n int64) error {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.index.ledger.max <= 0 || n <= 0 {
		return nil
	}
	return i.refusal(i.owner(owner), n, i.index.ledger.waiting)
}

// Reserve sets n bytes aside for a spool. If that takes an eviction, it waits for
// up to a second if it may, and else returns an error that matches
// [spool.ErrBusy]. It returns a [*FullError] if the bytes cannot be had. It adds up
// to ahead bytes, of which extra is the number, without any eviction.
func (q *Quota) Reserve(owner string, n, ahead int64, wait bool) (extra int64, err error) {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	o := i.owner(owner)
	if err := i.reserve(o, n, wait); err != nil {
		return 0, err
	}
	l := &i.index.ledger
	if l.max > 0 && !i.ready { // the number of stored bytes is not known
		return 0, nil
	}
	extra = l.surplus(ahead)
	l.reserve(o, extra)
	return extra, nil
}

// reserve is Reserve for bytes that have come. The caller holds the mutex.
func (i *inventory) reserve(o owner, n int64, wait bool) error {
	l := &i.index.ledger
	if l.max <= 0 || n <= 0 { // nothing to wait for, whether the index is loaded or not
		l.reserve(o, n)
		return nil
	}
	// Earlier waiters go first: their bytes count as if they were reserved.
	if err := i.refusal(o, n, l.waiting); err != nil {
		return err
	}
	patience := time.Now().Add(evictionPatience)
	for !i.ready || !l.reserve(o, n) {
		if !wait {
			return fmt.Errorf("%w for %s", spool.ErrBusy, units.IEC(n))
		}
		until := patience
		if !i.ready { // the number of stored bytes is not known, so nothing fits
			until = i.started.Add(loadPatience)
		}
		l.waiting += n
		inTime := i.await(until)
		l.waiting -= n
		// The refusal goes first: its reason is better than that time is over.
		if err := i.refusal(o, n, 0); err != nil {
			return err
		}
		if !inTime {
			return i.full(TooSlow, o, n)
		}
	}
	i.check()
	return nil
}

// Held returns how many bytes content and running downloads have together. Before the
// index is loaded, they are not known.
func (q *Quota) Held() (bytes int64, known bool) {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.index.ledger.stored + i.index.ledger.reserved, i.ready
}

// AddRecords counts records, which are documents beside the content, by that many bytes
// more. They take part in the limit. Their number is bounded elsewhere.
func (q *Quota) AddRecords(bytes int64) {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index.ledger.records += bytes
	i.check()
}

// refusal returns the reason why n bytes cannot be reserved, however much is
// evicted, if others get the bytes that they wait for first. The caller holds the
// mutex.
func (i *inventory) refusal(o owner, n, others int64) error {
	l := &i.index.ledger
	switch {
	case i.closed:
		return i.full(closing, o, n)
	case !i.ready && !time.Now().Before(i.started.Add(loadPatience)):
		return i.full(notIndexed, o, n)
	case !l.canFit(n + others):
		return i.full(InUse, o, n)
	case i.stuck() && !l.fits(n+others):
		return i.full(CannotDelete, o, n)
	case !i.index.mayReserve(o, n, time.Now()):
		return i.full(OverShare, o, n)
	default:
		return nil
	}
}

// full makes an error from the present state. The caller holds the mutex.
func (i *inventory) full(reason Reason, o owner, n int64) error {
	l := &i.index.ledger
	err := &FullError{Reason: reason, Want: n, Max: l.max, Reserved: l.reserved, Pinned: l.pinned}
	if o != unowned {
		a := &l.accounts[o]
		err.Owner, err.Own, err.Running = i.name(o), a.stored+a.reserved, a.reserved
	}
	if reason == CannotDelete {
		err.Err = i.failure
	}
	return err
}

// Release gives back bytes that were reserved.
func (q *Quota) Release(owner string, n int64) { q.inventory.release(owner, n) }

func (i *inventory) release(owner string, n int64) {
	if n == 0 {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index.ledger.release(i.owner(owner), n)
	if i.index.ledger.waiting > 0 {
		i.changed.Notify()
	}
}

// Removable is how many bytes MakeRoom could evict for n bytes of an owner. If only
// content of its own may be evicted, since it has more than its share, limited is a
// [*FullError].
func (q *Quota) Removable(owner string, n int64) (removable int64, limited error) {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	o := i.owner(owner)
	removable, own := i.removable(o, n)
	if own {
		limited = i.full(OverShare, o, n)
	}
	return removable, limited
}

// removable is how many bytes can be evicted for n bytes of an owner, and whether that
// is content of its own alone. Before the index is complete it is n. The caller holds the
// mutex.
func (i *inventory) removable(o owner, n int64) (bytes int64, own bool) {
	l := &i.index.ledger
	switch {
	case i.closed || i.stuck():
		return 0, false
	case !i.ready: // MakeRoom finds out
		i.wanted.Notify()
		return n, false
	case i.index.confined(o, n, time.Now()):
		return min(l.accounts[o].evictable(), l.evictable()-l.requested), true
	default:
		return l.evictable() - l.requested, false
	}
}

// MakeRoom evicts at least n bytes and waits until they are deleted. It reports
// false at once if there is not that much to evict, and after a second if the
// deletions take longer, or the index that they need is not complete by then.
func (q *Quota) MakeRoom(owner string, n int64) bool {
	i := q.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	patience := time.Now().Add(evictionPatience)
	// A lazy index is wanted now at the latest: a small filesystem is soon full.
	for i.wanted.Notify(); !i.ready; {
		if !i.await(patience) || i.closed {
			return false
		}
	}
	l := &i.index.ledger
	if removable, _ := i.removable(i.owner(owner), n); n > removable {
		return false
	}
	l.requested += n
	target := l.freed + l.requested
	for l.freed < target {
		if !i.await(patience) || i.closed || i.stuck() {
			l.requested = max(0, l.requested-n) // a part may have been freed already
			return false
		}
	}
	return true
}
