package evict

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/notify"
)

// inventory is the state that the parts of this package share. The mutex is held
// for moments: no I/O, no logging and no callback happens under it.
type inventory struct {
	started   time.Time
	wake      notify.Signal // the evictor should look for work
	used      notify.Signal // manifests is no longer empty
	wanted    notify.Signal // the index should be loaded
	loaded    chan struct{} // closed when the index is complete
	recording bool          // times of last use are recorded; set by New, before the first use
	deletions atomic.Uint64 // that have ended; changed with the mutex held

	mu          sync.Mutex
	index       index
	owners      map[string]owner
	blocks      []string         // the names of the owners that are configured, in alphabetical order
	unwritten   [ownerParts]bool // parts of the owners that have changed since they were written
	ready       bool             // loaded is closed
	scan        uint16           // number of the last comparison with the store
	maxManifest int64            // larger blobs are not looked into for references
	closed      bool             // nothing is evicted any more
	failure     error            // of the last deletion; nil if it succeeded
	failedAt    time.Time        // time of failure
	touches     mailbox          // blobs whose time of last use is to be written
	manifests   mailbox          // blobs whose references are to be followed
	changed     notify.Broadcast // waiting downloads and commits should look again
}

func newInventory(maxBytes int64) *inventory {
	return &inventory{
		started: time.Now(), wake: notify.NewSignal(), wanted: notify.NewSignal(), loaded: make(chan struct{}),
		used: notify.NewSignal(), index: index{lru: newLRU(), ledger: ledger{max: maxBytes}}, owners: make(map[string]owner),
	}
}

// await waits for a change. Like the Wait of a condition variable it lets go of
// the mutex, which the caller holds, while it waits. It reports false if the time
// is over.
func (i *inventory) await(until time.Time) bool {
	changed := i.changed.Wait()
	i.wake.Notify()
	i.mu.Unlock()
	defer i.mu.Lock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return false
	}
}

// stuck reports whether a deletion has failed recently. The caller holds the
// mutex.
func (i *inventory) stuck() bool { return i.failure != nil && time.Since(i.failedAt) < retryDelay }

// check wakes the evictor if the headroom is used up. The caller holds the mutex.
func (i *inventory) check() {
	if i.index.ledger.crowded() {
		i.wake.Notify()
	}
}

// checkOwner is check for a change that can take an owner over its cap, too.
func (i *inventory) checkOwner(o owner) {
	i.check()
	if i.index.ledger.accounts[o].exceeded(0) {
		i.wake.Notify()
	}
}

// discover returns the entry of a blob that the store below has shown, and adds it if
// it is new. Deletions is how many there had been before the store was asked. If the
// index does not know the content, and another deletion has ended since, the content may
// be the deleted one: discover reports false, and the store has to be asked again. The
// caller holds the mutex.
func (i *inventory) discover(dgst digest.Digest, size int64, deletions uint64) (slot, *entry, bool) {
	if _, e := i.index.lru.find(keyOf(dgst)); e == nil && i.deletions.Load() != deletions {
		return 0, nil, false
	}
	s, e := i.index.discover(dgst, size)
	i.check()
	return s, e, true
}

// use notes that a blob was used. The caller holds the mutex.
func (i *inventory) use(s slot, now int64) {
	e := i.index.lru.at(s)
	switch e.phase {
	case committing: // the commit ends with a use
		return
	case detached: // no request can find it again
		return
	}
	if i.recording {
		i.touches.add(s)
	}
	if e.size <= i.maxManifest && i.manifests.add(s) {
		i.used.Notify()
	}
	i.index.touch(s, now)
}
