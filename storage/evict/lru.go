package evict

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/opencontainers/go-digest"
)

// key is what a digest is known by in an index: its bytes if it is a sha256 one,
// else the sha256 of its text.
type key [sha256.Size]byte

func keyOf(dgst digest.Digest) key {
	k, _ := split(dgst)
	return k
}

// split returns a digest's key, and the digest itself where its key does not
// tell it.
func split(dgst digest.Digest) (k key, other digest.Digest) {
	const prefix = "sha256:"
	if len(dgst) == len(prefix)+hex.EncodedLen(sha256.Size) && dgst[:len(prefix)] == prefix {
		if _, err := hex.Decode(k[:], []byte(dgst[len(prefix):])); err == nil {
			return k, ""
		}
	}
	return sha256.Sum256([]byte(dgst)), dgst
}

// slot is the number of an entry. Entries hold no pointers, and neither does the
// map to them, so that the garbage collector need not look at a million of them.
type slot uint32

// entry is one content. It is in the order of use unless it is pinned or doomed.
type entry struct {
	key        key
	size       int64 // bytes
	used       int64 // Unix time in nanoseconds
	prev, next slot
	pins       uint32
	state      state
}

type state uint32

const (
	linked   state = 1 << iota // in the order of use
	doomed                     // being deleted
	orphaned                   // deleted while it was pinned; its bytes are there until it no longer is
	dirty                      // used since that was last written down
	queued                     // waits for what it refers to being used
	leaf                       // known to be no manifest
	seen                       // found by the scan that is running
	arriving                   // being stored for the first time, and without bytes until that is done
)

func (e *entry) is(s state) bool { return e.state&s != 0 }

const chunk = 4096

// index holds entries by key and in the order of use. Its methods are called
// with the Store's mutex held. Pointers to entries stay valid; slots are used
// again.
type index struct {
	byKey  map[key]slot
	chunks []*[chunk]entry
	others map[key]digest.Digest // those digests that are not sha256
	unused []slot
	slots  slot // that have ever been in use; slot 0 is both ends of the order

	stored int64 // bytes of all entries
	pinned int64 // bytes of those that are pinned
	idle   int   // entries in the order of use
}

func newIndex() index {
	return index{byKey: make(map[key]slot), others: make(map[key]digest.Digest), chunks: []*[chunk]entry{new([chunk]entry)}, slots: 1}
}

func (x *index) at(s slot) *entry { return &x.chunks[s/chunk][s%chunk] }

// find returns the entry of a key, or nil.
func (x *index) find(k key) (slot, *entry) {
	s, ok := x.byKey[k]
	if !ok {
		return 0, nil
	}
	return s, x.at(s)
}

// add makes an entry that is not in the order of use yet.
func (x *index) add(k key, other digest.Digest, size int64) (slot, *entry) {
	var s slot
	if n := len(x.unused); n > 0 {
		s, x.unused = x.unused[n-1], x.unused[:n-1]
	} else {
		s = x.slots
		x.slots++
		if int(s/chunk) == len(x.chunks) {
			x.chunks = append(x.chunks, new([chunk]entry))
		}
	}
	e := x.at(s)
	*e = entry{key: k, size: size}
	if other != "" {
		x.others[k] = other
	}
	x.byKey[k] = s
	x.stored += size
	return s, e
}

func (x *index) digest(e *entry) digest.Digest {
	if dgst, ok := x.others[e.key]; ok {
		return dgst
	}
	return digest.NewDigestFromBytes(digest.SHA256, e.key[:])
}

func (x *index) resize(e *entry, size int64) {
	x.stored += size - e.size
	if e.pins > 0 {
		x.pinned += size - e.size
	}
	e.size = size
}

// free forgets an entry, which is in no order and not pinned.
func (x *index) free(s slot, e *entry) {
	x.forget(e)
	x.stored -= e.size
	*e = entry{}
	x.unused = append(x.unused, s)
}

// forget makes an entry impossible to find.
func (x *index) forget(e *entry) {
	if !e.is(orphaned) {
		delete(x.byKey, e.key)
		delete(x.others, e.key)
	}
}

// link makes an entry the one that was used last.
func (x *index) link(s slot, e *entry) { x.insert(s, e, 0, x.at(0).next) }

// linkLast makes an entry the next one to be evicted.
func (x *index) linkLast(s slot, e *entry) { x.insert(s, e, x.at(0).prev, 0) }

func (x *index) insert(s slot, e *entry, prev, next slot) {
	e.prev, e.next = prev, next
	x.at(prev).next, x.at(next).prev = s, s
	e.state |= linked
	x.idle++
}

func (x *index) unlink(e *entry) {
	if e.is(linked) {
		x.at(e.prev).next, x.at(e.next).prev = e.next, e.prev
		e.state &^= linked
		x.idle--
	}
}

// oldest returns the entry that has not been used for longest of those that may
// be evicted, or nil.
func (x *index) oldest() (slot, *entry) {
	if s := x.at(0).prev; s != 0 {
		return s, x.at(s)
	}
	return 0, nil
}

// pin takes an entry out of the order of use until it is unpinned as often.
func (x *index) pin(e *entry) {
	if e.pins == 0 {
		x.unlink(e)
		x.pinned += e.size
	}
	e.pins++
}

func (x *index) unpin(s slot, e *entry) {
	if e.pins--; e.pins > 0 {
		return
	}
	x.pinned -= e.size
	switch {
	case e.is(orphaned):
		x.free(s, e)
	case !e.is(doomed):
		x.link(s, e)
	}
}

// doom takes an entry that is about to be deleted out of the order of use.
func (x *index) doom(e *entry) {
	x.unlink(e)
	e.state |= doomed
}

// reprieve ends what doom began: the content is gone or stays.
func (x *index) reprieve(s slot, e *entry, gone bool) {
	e.state &^= doomed
	switch {
	case gone && e.pins == 0:
		x.free(s, e)
	case gone:
		x.orphan(e)
	case e.pins == 0:
		x.link(s, e)
	}
}

// orphan forgets a pinned entry whose content has been deleted. Its bytes count
// until it is unpinned.
func (x *index) orphan(e *entry) {
	x.forget(e)
	e.state |= orphaned
}
