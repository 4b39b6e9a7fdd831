package evict

import (
	"strings"
	"time"
)

// owner is the number of a repository block whose downloads brought content in.
type owner uint8

const (
	// unowned is the owner of content whose owner is not known: another process stored it, or
	// this one was killed before it wrote the owner down.
	unowned owner = 0
	// maxOwners bounds the owners. Those beyond it share the last number, and so its
	// share of the store.
	maxOwners = 256
	// sparedFor is how long after its use content is not evicted for an owner that has
	// more than its share. It is the rhythm of nightly builds; a longer time would keep
	// content that nothing uses any more from making room for an owner in need.
	sparedFor = 24 * time.Hour
)

// ownerName returns the block of an owner. What a block has from another upstream than its first one,
// whose name follows an @, is the block's too.
func ownerName(name string) string {
	name, _, _ = strings.Cut(name, "@")
	return name
}

// owner returns the number of an owner. The caller holds the mutex.
func (i *inventory) owner(name string) owner {
	name = ownerName(name)
	if name == "" {
		return unowned
	}
	o, known := i.owners[name]
	switch {
	case known:
		return o
	case len(i.index.lru.ends) < maxOwners:
		o = i.index.lru.addOwner()
	default:
		return maxOwners - 1 // not remembered, so that names take no memory
	}
	i.owners[name] = o
	return o
}

// name returns the name of an owner. The caller holds the mutex.
func (i *inventory) name(o owner) string {
	for name, number := range i.owners { // rare, and there are few
		if number == o {
			return name
		}
	}
	return ""
}

// victim returns the content that is evicted next: the least recently used one. If that
// was used recently and several owners share the store, it is the one of the owner that has
// the most bytes. So owners that want more and more have equal shares in the end, and none
// loses content that has less. If all content of that owner is in use, content of the next
// one is evicted only if that is urgent: no owner may use up the headroom again and again
// at the cost of others. It returns nil if no content can be evicted.
func (x *index) victim(urgent bool, now time.Time) (slot, *entry) {
	s, e := x.lru.oldest()
	if e == nil || !spared(e, now) || !x.ledger.several {
		return s, e
	}
	s, e = x.lru.oldestOf(x.ledger.largest(func(owner) bool { return true }))
	if e != nil || !urgent {
		return s, e
	}
	return x.lru.oldestOf(x.ledger.largest(func(o owner) bool {
		if int(o) >= len(x.lru.ends) {
			return false
		}
		_, idle := x.lru.oldestOf(o)
		return idle != nil
	}))
}

// spared reports whether a blob was used so recently that it is not evicted for an
// owner that has more than its share.
func spared(e *entry, now time.Time) bool { return now.Sub(time.Unix(0, e.used)) < sparedFor }

// confined reports whether only content of the owner itself may be evicted for n more
// bytes of it: it has more than its share, and others have used theirs recently.
func (x *index) confined(o owner, n int64, now time.Time) bool {
	if !x.ledger.exceeds(o, n) {
		return false
	}
	_, e := x.lru.oldest()
	return e == nil || spared(e, now)
}

// mayReserve reports whether n more bytes of an owner take nothing from the share of
// others: there is free room for them, or content of its own can be evicted.
func (x *index) mayReserve(o owner, n int64, now time.Time) bool {
	l := &x.ledger
	return l.max <= 0 || n <= l.free() || n <= l.accounts[o].evictable() || !x.confined(o, n, now)
}
