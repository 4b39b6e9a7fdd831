package evict

import (
	"encoding/binary"
	"sort"
	"time"
)

const (
	// orderEntry is how many bytes a blob takes in an order: the start of its key, and the
	// seconds of its last use since 1970.
	orderEntry = 8 + 4
	// maxOrder bounds the blobs of an order: 48 MiB. Those that were used last are in it.
	maxOrder = 4 << 20
)

// order is when blobs were last used, as it is written down. It is sorted, and searched as
// it is: a map of a million blobs would take more memory than their index.
type order []byte

// order returns the order of the blobs of an index.
func (x *index) order() order {
	o := make(order, 0, min(x.lru.length, maxOrder)*orderEntry)
	for _, end := range x.lru.ends {
		for s, left := x.lru.at(end).next, x.ordered(end); s != end && left > 0; s, left = x.lru.at(s).next, left-1 {
			e := x.lru.at(s)
			o = binary.BigEndian.AppendUint64(o, short(e.key))
			o = binary.BigEndian.AppendUint32(o, uint32(max(0, time.Unix(0, e.used).Unix())))
		}
	}
	sort.Sort(sorting(o))
	return o
}

// ordered returns how many blobs of an owner are in an order: all, or its part of those that
// an order may have.
func (x *index) ordered(end slot) int {
	if x.lru.length <= maxOrder {
		return x.lru.length
	}
	contents := 0
	for s := x.lru.at(end).next; s != end; s = x.lru.at(s).next {
		contents++
	}
	return contents * maxOrder / x.lru.length
}

// sorting sorts an order in place.
type sorting order

func (o sorting) Len() int           { return len(o) / orderEntry }
func (o sorting) Less(i, j int) bool { return order(o).key(i) < order(o).key(j) }
func (o sorting) Swap(i, j int) {
	var entry [orderEntry]byte
	copy(entry[:], o[i*orderEntry:])
	copy(o[i*orderEntry:(i+1)*orderEntry], o[j*orderEntry:])
	copy(o[j*orderEntry:(j+1)*orderEntry], entry[:])
}

func (o order) key(i int) uint64 { return binary.BigEndian.Uint64(o[i*orderEntry:]) }

// parseOrder returns the order of a note. A forged one finds no content, or gives it another
// time.
func parseOrder(document []byte) order { return order(document[:len(document)/orderEntry*orderEntry]) }

// used returns when a blob was last used, or the zero time. It is never later than now.
func (o order) used(k key, now time.Time) time.Time {
	wanted := short(k)
	n := len(o) / orderEntry
	i := sort.Search(n, func(i int) bool { return o.key(i) >= wanted })
	if i == n || o.key(i) != wanted {
		return time.Time{}
	}
	used := time.Unix(int64(binary.BigEndian.Uint32(o[i*orderEntry+8:])), 0)
	if used.After(now) {
		return now
	}
	return used
}
