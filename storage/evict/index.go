package evict

import "github.com/opencontainers/go-digest"

// phase is the state of an entry. It has exactly one at a time; the diagram in the
// package comment shows the transitions.
type phase uint8

const (
	_ phase = iota // free: a slot without a blob
	// committing is a blob that is being stored for the first time. Its bytes
	// are still those of the spool's reservation.
	committing
	// idle is a blob that can be evicted. Only idle entries are in the order of
	// use.
	idle
	// pinned is a blob that is open, or whose spool is.
	pinned
	// deleting is a blob that is being deleted. To readers it is gone.
	deleting
	// detached is a blob that was deleted while it was in use. It cannot be
	// found any more, and its bytes count until the last user closes it.
	detached
)

// index is the phase of each blob, its place in the order of use and its bytes
// in the ledger. It changes the three together. It has no lock and does no I/O.
type index struct {
	lru    lru
	ledger ledger
}

// begin adds a blob that is about to be stored, with one pin.
func (x *index) begin(dgst digest.Digest) slot {
	s, e := x.lru.add(split(dgst))
	e.phase, e.pins = committing, 1
	return s
}

// commit ends the first successful commit of a blob: the reservation of its
// spool becomes stored bytes of its owner. It reports false if the content had been stored
// before; then the spool's file is a second one, and its reservation stays.
func (x *index) commit(s slot, o owner, size, reserved int64) bool {
	e := x.lru.at(s)
	switch e.phase {
	case committing:
		e.phase = pinned
	case detached:
		// The content was deleted after it became visible and before its commit
		// ended. The spool keeps its bytes on disk.
		if e.size > 0 {
			return false
		}
	default:
		return false
	}
	e.size, e.owner = size, o
	x.ledger.commit(o, size, reserved)
	return true
}

// discover returns the entry of a blob that the store has, and adds it as
// unused if it is new.
func (x *index) discover(dgst digest.Digest, size int64) (slot, *entry) {
	k, other := split(dgst)
	s, e := x.lru.find(k)
	if e == nil {
		s, e = x.insert(k, other, size, unowned)
		x.lru.pushFront(s)
	}
	return s, e
}

// load adds a blob as the least recently used one of its owner. If it is known, it gets
// its owner.
func (x *index) load(c listed, o owner) {
	if s, known := x.lru.find(c.key); known != nil {
		x.give(s, o)
		return
	}
	s, e := x.insert(c.key, c.other, c.size, o)
	e.used = c.used
	x.lru.pushBack(s)
}

// insert adds an idle entry. The caller puts it into the order of use.
func (x *index) insert(k key, other digest.Digest, size int64, o owner) (slot, *entry) {
	s, e := x.lru.add(k, other)
	e.phase, e.size, e.owner = idle, size, o
	x.ledger.add(o, size)
	return s, e
}

// give makes an owner that of a stored blob without one.
func (x *index) give(s slot, o owner) {
	e := x.lru.at(s)
	if e.owner != unowned || o == unowned || e.phase != idle && e.phase != pinned && e.phase != deleting {
		return
	}
	x.ledger.give(o, e.size, e.phase == pinned)
	if e.phase != idle {
		e.owner = o
		return
	}
	x.lru.remove(s)
	e.owner = o
	if x.outgrows(e) {
		x.lru.pushBack(s)
	} else {
		x.lru.pushByUse(s)
	}
}

// enqueue puts an idle entry into the order of use, as the one that was used last.
func (x *index) enqueue(s slot) {
	if x.outgrows(x.lru.at(s)) {
		x.lru.pushBack(s) // it goes first, and leaves the rest of its owner's content alone
	} else {
		x.lru.pushFront(s)
	}
}

// outgrows reports whether a blob is larger than the cap of its owner.
func (x *index) outgrows(e *entry) bool {
	limit := x.ledger.accounts[e.owner].cap
	return limit > 0 && e.size > limit
}

// touch notes the use of a blob.
func (x *index) touch(s slot, used int64) {
	e := x.lru.at(s)
	e.used = used
	if e.phase == idle {
		x.lru.remove(s)
		x.enqueue(s)
	}
}

// pin keeps a blob from being evicted until it is unpinned as often. The
// content must not be being deleted.
func (x *index) pin(s slot) {
	e := x.lru.at(s)
	if e.phase == idle {
		e.phase = pinned
		x.lru.remove(s)
		x.ledger.pin(e.owner, e.size)
	}
	e.pins++
}

// unpin ends one use that pin or begin began.
func (x *index) unpin(s slot) {
	e := x.lru.at(s)
	if e.pins--; e.pins > 0 {
		return
	}
	switch e.phase {
	case committing: // no commit succeeded
		x.lru.hide(e)
		x.lru.free(s)
	case pinned:
		e.phase = idle
		x.ledger.unpin(e.owner, e.size)
		x.enqueue(s)
	case detached:
		x.ledger.unpin(e.owner, e.size)
		x.ledger.remove(e.owner, e.size)
		x.lru.free(s)
	}
}

// beginDelete makes an idle blob one that is being deleted.
func (x *index) beginDelete(s slot) {
	x.lru.remove(s)
	x.lru.at(s).phase = deleting
}

// finishDelete records whether the deletion succeeded. A blob that could not be
// deleted counts as used now, so that the evictor tries others before it.
func (x *index) finishDelete(s slot, gone bool, now int64) {
	e := x.lru.at(s)
	if !gone {
		e.phase, e.used = idle, now
		x.lru.pushFront(s)
		return
	}
	x.ledger.deleted(e.owner, e.size)
	x.lru.hide(e)
	x.lru.free(s)
}

// detach makes a blob impossible to find that was deleted while it was in use.
func (x *index) detach(s slot) {
	e := x.lru.at(s)
	x.lru.hide(e)
	e.phase = detached
}

// vanished makes an idle blob the next to be evicted, because the store does not
// have it any more.
func (x *index) vanished(s slot) {
	e := x.lru.at(s)
	if e.phase == idle { // the evictor waits for the last user of any other
		e.used = 0
		x.lru.remove(s)
		x.lru.pushBack(s)
	}
}

// forget removes an idle blob that the store does not have any more.
func (x *index) forget(s slot) {
	e := x.lru.at(s)
	x.lru.remove(s)
	x.lru.hide(e)
	x.ledger.remove(e.owner, e.size)
	x.lru.free(s)
}
