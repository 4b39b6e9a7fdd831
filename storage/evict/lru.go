package evict

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/opencontainers/go-digest"
)

// key stands for a digest in an index: it is the bytes of a sha256 digest, and
// the sha256 of the text of any other one.
type key [sha256.Size]byte

func keyOf(dgst digest.Digest) key {
	k, _ := split(dgst)
	return k
}

// split returns the key of a digest, and the digest itself if it cannot be
// derived from the key.
func split(dgst digest.Digest) (k key, other digest.Digest) {
	const prefix = "sha256:"
	if len(dgst) == len(prefix)+hex.EncodedLen(sha256.Size) && dgst[:len(prefix)] == prefix {
		if _, err := hex.Decode(k[:], []byte(dgst[len(prefix):])); err == nil {
			return k, ""
		}
	}
	return sha256.Sum256([]byte(dgst)), dgst
}

// slot is the number of an entry. Neither entries nor the map to them hold
// pointers, so that the garbage collector need not visit a million of them. A
// slot is used again once its content has been forgotten. A slot that was kept
// across an unlock is therefore only a hint, unless its entry is pinned or being
// deleted.
type slot uint32

// entry is one blob. It takes 64 bytes, a cache line.
type entry struct {
	key        key
	size       int64 // bytes; 0 while the phase is committing
	used       int64 // Unix time in nanoseconds; 0: never by this process
	prev, next slot  // neighbours in the order of use, if the phase is idle
	pins       uint32
	phase      phase
	owner      owner
	scan       uint16 // number of the last scan of the store that found the content
}

// chunkSize is how many entries are allocated at once: 256 KiB. A slice that grows
// would copy all entries, and invalidate pointers to them.
const chunkSize = 4096

// lru finds entries by key and keeps the idle ones in the order of use, those of each
// owner by themselves. Pointers to entries stay valid. It has no lock.
type lru struct {
	byKey  map[key]slot
	chunks []*[chunkSize]entry
	others map[key]digest.Digest // digests that are not sha256
	unused []slot
	ends   []slot // by owner: a slot without a blob that is both ends of its order
	slots  slot   // number of slots that have ever been in use
	length int    // entries in the order of use
}

func newLRU() lru {
	l := lru{byKey: make(map[key]slot), others: make(map[key]digest.Digest)}
	l.addOwner() // of content without an owner, whose ends are slot 0
	return l
}

// addOwner makes an order for one more owner.
func (l *lru) addOwner() owner {
	end := l.grow()
	*l.at(end) = entry{prev: end, next: end}
	l.ends = append(l.ends, end)
	return owner(len(l.ends) - 1)
}

// grow returns a slot that has never been in use.
func (l *lru) grow() slot {
	s := l.slots
	l.slots++
	if int(s/chunkSize) == len(l.chunks) {
		l.chunks = append(l.chunks, new([chunkSize]entry))
	}
	return s
}

func (l *lru) at(s slot) *entry { return &l.chunks[s/chunkSize][s%chunkSize] }

// find returns the entry of a key, or nil.
func (l *lru) find(k key) (slot, *entry) {
	s, ok := l.byKey[k]
	if !ok {
		return 0, nil
	}
	return s, l.at(s)
}

// add makes an entry that is not in the order of use. The key must be new.
func (l *lru) add(k key, other digest.Digest) (slot, *entry) {
	var s slot
	if n := len(l.unused); n > 0 {
		s, l.unused = l.unused[n-1], l.unused[:n-1]
	} else {
		s = l.grow()
	}
	e := l.at(s)
	*e = entry{key: k}
	if other != "" {
		l.others[k] = other
	}
	l.byKey[k] = s
	return s, e
}

// digest returns the digest of an entry that can still be found.
func (l *lru) digest(e *entry) digest.Digest {
	if dgst, ok := l.others[e.key]; ok {
		return dgst
	}
	return digest.NewDigestFromBytes(digest.SHA256, e.key[:])
}

// hide makes an entry impossible to find.
func (l *lru) hide(e *entry) {
	delete(l.byKey, e.key)
	delete(l.others, e.key)
}

// free makes the slot of a hidden entry usable again. The entry is not in the
// order of use.
func (l *lru) free(s slot) {
	*l.at(s) = entry{}
	l.unused = append(l.unused, s)
}

// pushFront makes an entry the most recently used one of its owner.
func (l *lru) pushFront(s slot) {
	end := l.ends[l.at(s).owner]
	l.insert(s, end, l.at(end).next)
}

// pushBack makes an entry the least recently used one of its owner.
func (l *lru) pushBack(s slot) {
	end := l.ends[l.at(s).owner]
	l.insert(s, l.at(end).prev, end)
}

// maxSteps bounds the search for a place in the order of use.
const maxSteps = 1024

// pushByUse puts an entry behind those of its owner that were used later. It was used
// recently itself, so that they are few.
func (l *lru) pushByUse(s slot) {
	e := l.at(s)
	end := l.ends[e.owner]
	next := l.at(end).next
	for steps := 0; next != end && l.at(next).used > e.used && steps < maxSteps; steps++ {
		next = l.at(next).next
	}
	l.insert(s, l.at(next).prev, next)
}

func (l *lru) insert(s, prev, next slot) {
	e := l.at(s)
	e.prev, e.next = prev, next
	l.at(prev).next, l.at(next).prev = s, s
	l.length++
}

// remove takes an entry out of the order of use.
func (l *lru) remove(s slot) {
	e := l.at(s)
	l.at(e.prev).next, l.at(e.next).prev = e.next, e.prev
	l.length--
}

// oldestOf returns the least recently used entry of an owner, or nil.
func (l *lru) oldestOf(o owner) (slot, *entry) {
	end := l.ends[o]
	s := l.at(end).prev
	if s == end {
		return 0, nil
	}
	return s, l.at(s)
}

// oldest returns the least recently used entry of all owners, or nil.
func (l *lru) oldest() (oldest slot, of *entry) {
	for o := range l.ends {
		if s, e := l.oldestOf(owner(o)); e != nil && (of == nil || e.used < of.used) {
			oldest, of = s, e
		}
	}
	return oldest, of
}
