package evict

const (
	// headroomShare is the part of a limit that is kept free, so that usual
	// downloads need not wait for an eviction: one twentieth. A smaller part
	// would be used up by a few layers; a larger one would waste the disk.
	headroomShare = 20
	// maxHeadroom bounds that part, in bytes. It has room for the layers of a
	// large image, and more would not make a download faster.
	maxHeadroom = 1 << 30
)

// aheadShare is the part of a limit that is set aside for one download before the
// bytes come: one quarter. Bytes that may never come must not keep others from it.
const aheadShare = 4

func headroom(limit int64) int64 { return min(limit/headroomShare, maxHeadroom) }

// ledger counts the bytes of a store against its limit:
//
//	0                                                                           max
//	|-- stored (pinned ####) --|- records -|-- reserved by spools --|- headroom -|
//
// Each byte is in one part at a time. A commit moves bytes from reserved to
// stored in one step. The bytes of a blob that is being deleted are stored
// until the content is gone. reserve keeps stored + records + reserved within max. Only
// content that exists already, such as that of a store whose limit was lowered,
// can exceed it, and then nothing is reserved until enough has been evicted.
//
// A ledger has no lock and does no I/O.
type ledger struct {
	max      int64 // 0: no limit
	stored   int64 // of all blobs, with those that are being deleted
	pinned   int64 // the part of stored that is in use and cannot be evicted
	reserved int64 // by spools
	records  int64 // of all records; they are not evicted here

	waiting   int64 // bytes that downloads wait to reserve
	requested int64 // bytes whose deletion downloads wait for, because the filesystem is short of free space
	freed     int64 // bytes that have been deleted since the start

	several  bool // owners share the store
	accounts [maxOwners]account
}

// account is the part of one owner in the bytes of a ledger, and its cap on stored ones; 0:
// no cap.
type account struct{ stored, pinned, reserved, cap int64 }

// bytes returns how many bytes an owner has, those of its running downloads included.
func (a *account) bytes() int64 { return a.stored + a.reserved }

// evictable returns how many bytes of an owner are not in use.
func (a *account) evictable() int64 { return a.stored - a.pinned }

// exceeded reports whether content of the owner has to go for its cap, if that many bytes go
// already. Bytes in use count in
// the cap, unless they exceed it by themselves: no eviction changes that, so idle content
// does not go for a moment's use.
func (a *account) exceeded(leaving int64) bool {
	used := a.pinned
	if used > a.cap {
		used = 0
	}
	return a.cap > 0 && a.evictable()-leaving+used > a.cap
}

// fits reports whether n more bytes can be reserved now.
func (l *ledger) fits(n int64) bool { return l.max <= 0 || l.stored+l.records+l.reserved+n <= l.max }

// canFit reports whether n more bytes could be reserved if all content that is
// not in use were evicted.
func (l *ledger) canFit(n int64) bool { return l.max <= 0 || l.pinned+l.records+l.reserved+n <= l.max }

// full reports whether the bytes that are wanted exceed the limit, those that
// downloads wait for included.
func (l *ledger) full() bool { return l.max > 0 && l.stored+l.records+l.reserved+l.waiting > l.max }

// crowded reports whether the headroom is used up, at least in part.
func (l *ledger) crowded() bool { return l.max > 0 && l.free() < 0 }

// free returns how many bytes can be reserved without using the headroom, so that no
// content is evicted for them. It is for a ledger with a limit.
func (l *ledger) free() int64 {
	return l.max - headroom(l.max) - l.stored - l.records - l.reserved - l.waiting
}

// evictable returns how many bytes are not in use. Those that are being deleted
// are among them.
func (l *ledger) evictable() int64 { return l.stored - l.pinned }

// exceeds reports whether an owner, with n more bytes, has more than its share: more than
// any other one, if several owners share the store.
func (l *ledger) exceeds(o owner, n int64) bool {
	if o == unowned || !l.several {
		return false
	}
	for other := range l.accounts {
		if owner(other) != o && l.accounts[other].bytes() >= l.accounts[o].bytes()+n {
			return false
		}
	}
	return true
}

// largest returns the owner that has the most bytes of those that has reports true for.
func (l *ledger) largest(has func(owner) bool) (most owner) {
	bytes := int64(-1)
	for o := range l.accounts {
		if b := l.accounts[o].bytes(); b > bytes && has(owner(o)) {
			most, bytes = owner(o), b
		}
	}
	return most
}

// reserve sets n bytes aside for a spool, or reports false if they do not fit.
func (l *ledger) reserve(o owner, n int64) bool {
	if !l.fits(n) {
		return false
	}
	l.reserved += n
	l.accounts[o].reserved += n
	return true
}

// surplus returns how many of n bytes that have not come yet can be reserved
// without using the headroom: no content is evicted for them.
func (l *ledger) surplus(n int64) int64 {
	if l.max <= 0 {
		return n
	}
	return max(0, min(n, l.max/aheadShare, l.free()))
}

// release gives back bytes that were reserved.
func (l *ledger) release(o owner, n int64) {
	l.reserved -= n
	l.accounts[o].reserved -= n
}

// add counts a blob that is stored already.
func (l *ledger) add(o owner, size int64) {
	l.stored += size
	l.accounts[o].stored += size
}

// remove stops counting a blob.
func (l *ledger) remove(o owner, size int64) { l.add(o, -size) }

// give makes an owner that of a blob without one.
func (l *ledger) give(o owner, size int64, used bool) {
	l.remove(unowned, size)
	l.add(o, size)
	if used {
		l.unpin(unowned, size)
		l.pin(o, size)
	}
}

// pin counts a stored blob as being in use.
func (l *ledger) pin(o owner, size int64) {
	l.pinned += size
	l.accounts[o].pinned += size
}

// unpin counts it as unused again.
func (l *ledger) unpin(o owner, size int64) { l.pin(o, -size) }

// commit turns the reservation of a spool into a stored blob that is in use.
func (l *ledger) commit(o owner, size, reserved int64) {
	l.release(o, reserved)
	l.add(o, size)
	l.pin(o, size)
}

// deleted stops counting a blob that has been deleted on purpose. Its bytes
// serve the downloads that wait for free space.
func (l *ledger) deleted(o owner, size int64) {
	l.remove(o, size)
	l.freed += size
	l.requested = max(0, l.requested-size)
}
