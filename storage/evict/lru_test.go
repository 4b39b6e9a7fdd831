package evict

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
)

// The index of a million blobs is dominated by its entries.
func TestEntrySize(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size != 64 {
		t.Errorf("an entry takes %d bytes, want 64", size)
	}
}

// The order of use equals that of a slice that is searched.
func TestLRUOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := newLRU()
	var order []slot // the least recently used one first
	for i := range 20_000 {
		switch n := r.IntN(4); {
		case n == 0 || len(order) == 0:
			s, _ := l.add(split(digest.FromString(string(rune(i)))))
			l.pushFront(s)
			order = append(order, s)
		case n == 1:
			s := order[r.IntN(len(order))]
			l.remove(s)
			l.pushFront(s)
			order = append(slices.DeleteFunc(order, func(o slot) bool { return o == s }), s)
		case n == 2:
			s := order[r.IntN(len(order))]
			l.remove(s)
			l.pushBack(s)
			order = slices.Insert(slices.DeleteFunc(order, func(o slot) bool { return o == s }), 0, s)
		default:
			s, e := l.oldest()
			l.remove(s)
			l.hide(e)
			l.free(s)
			order = order[1:]
		}
		if s, _ := l.oldest(); len(order) > 0 && s != order[0] || len(order) == 0 && s != 0 {
			t.Fatalf("step %d: the oldest is %d of %v", i, s, order)
		}
		if l.length != len(order) || len(l.byKey) != len(order) {
			t.Fatalf("step %d: length %d, %d keys, want %d", i, l.length, len(l.byKey), len(order))
		}
	}
}

func TestLRUFindsByDigest(t *testing.T) {
	l := newLRU()
	sha256, sha512 := digest.FromString("a"), digest.SHA512.FromString("a")
	for _, dgst := range []digest.Digest{sha256, sha512} {
		if _, e := l.find(keyOf(dgst)); e != nil {
			t.Errorf("%s is there before it was added", dgst)
		}
		added, _ := l.add(split(dgst))
		s, e := l.find(keyOf(dgst))
		if s != added || e == nil || l.digest(e) != dgst {
			t.Errorf("%s is not found as such", dgst)
		}
	}
	s, e := l.find(keyOf(sha512))
	l.hide(e)
	l.free(s)
	if again, _ := l.add(split(digest.FromString("b"))); again != s {
		t.Errorf("slot %d is not used again", s)
	}
	if _, e := l.find(keyOf(sha512)); e != nil {
		t.Error("a hidden entry is found")
	}
}

func TestMailboxHoldsEachSlotOnce(t *testing.T) {
	var m mailbox
	for round := range 2 {
		if !m.add(200) || m.add(1) || m.add(200) || m.add(1) {
			t.Errorf("round %d: want the first one alone to fill the box", round)
		}
		if got := m.take(); !slices.Equal(got, []slot{200, 1}) {
			t.Errorf("round %d: %v", round, got)
		}
		if got := m.take(); len(got) != 0 {
			t.Errorf("round %d: %v are left", round, got)
		}
	}
}
