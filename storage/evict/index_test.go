package evict

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// model is a slow and simple account of the same store: files, and spools that
// have space reserved. It sums up all of them to learn what an index should count.
type model struct {
	files  []*file
	spools map[*upload]bool
}

// file is a blob on disk, or one that is deleted and still open.
type file struct {
	digest  digest.Digest
	size    int64
	owner   owner
	handles int
	gone    bool // no longer found; its bytes go with the last handle
	slot    slot
}

// upload is a spool: reserved bytes, then a file or a second copy of one.
type upload struct {
	digest  digest.Digest
	size    int64
	owner   owner
	slot    slot
	file    *file // once it is committed as the first
	surplus int64
	done    bool
}

func (m *model) find(dgst digest.Digest) *file {
	for _, f := range m.files {
		if f.digest == dgst && !f.gone {
			return f
		}
	}
	return nil
}

func (m *model) drop(f *file) {
	m.files = slices.DeleteFunc(m.files, func(g *file) bool { return f == g })
}

// check compares the sums, and every entry's phase.
func (m *model) check(t *testing.T, x *index) {
	t.Helper()
	var stored, pinned, reserved int64
	var accounts [maxOwners]account
	idles := 0
	for _, f := range m.files {
		stored += f.size
		accounts[f.owner].stored += f.size
		if f.handles > 0 {
			pinned += f.size
			accounts[f.owner].pinned += f.size
		} else {
			idles++
		}
		want := idle
		switch {
		case f.gone:
			want = detached
		case f.handles > 0:
			want = pinnedPhase
		}
		if got := x.lru.at(f.slot).phase; got != want {
			t.Fatalf("a content is in phase %d, want %d", got, want)
		}
	}
	for u := range m.spools {
		own := u.surplus
		if !u.done {
			own += u.size
		}
		reserved += own
		accounts[u.owner].reserved += own
	}
	l := &x.ledger
	if l.accounts != accounts {
		t.Fatalf("owners have %+v, want %+v", l.accounts[:4], accounts[:4])
	}
	if l.stored != stored || l.pinned != pinned || l.reserved != reserved {
		t.Fatalf("stored %d, pinned %d, reserved %d; want %d, %d, %d", l.stored, l.pinned, l.reserved, stored, pinned, reserved)
	}
	if l.stored+l.reserved > l.max {
		t.Fatalf("%d bytes of %d", l.stored+l.reserved, l.max)
	}
	if x.lru.length != idles {
		t.Fatalf("%d contents can be evicted, want %d", x.lru.length, idles)
	}
}

const pinnedPhase = pinned // the model has sums of that name

// Whatever happens in whatever order, no byte is counted twice or lost, and the
// limit is kept.
func TestIndexCountsEachByteOnce(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		x := index{lru: newLRU(), ledger: ledger{max: 1000}}
		m := model{spools: map[*upload]bool{}}
		for range 3 {
			x.lru.addOwner()
		}
		digests := make([]digest.Digest, 8)
		for i := range digests {
			digests[i] = digest.FromString(string(rune('a' + i)))
		}
		digests[7] = digest.SHA512.FromString("h")
		for range 2000 {
			n := r.IntN(len(digests))
			step(r, &x, &m, digests[n], int64(40*(n+1)))
			m.check(t, &x)
		}
		for len(m.spools) > 0 || len(m.files) > 0 { // all is closed and deleted in the end
			step(r, &x, &m, digests[r.IntN(len(digests))], 2000)
			m.check(t, &x)
		}
		if len(x.lru.byKey)+len(x.lru.others) > 0 || len(x.lru.unused) != int(x.lru.slots)-len(x.lru.ends) {
			t.Fatalf("seed %d: entries are left", seed)
		}
	}
}

// step does one random thing. A size that never fits makes no new blobs.
func step(r *rand.Rand, x *index, m *model, dgst digest.Digest, size int64) {
	s, e := x.lru.find(keyOf(dgst))
	f := m.find(dgst)
	switch r.IntN(8) {
	case 0: // a download begins
		u := &upload{digest: dgst, size: size, owner: owner(r.IntN(4))}
		if size > x.ledger.max || len(m.spools) > 4 || !x.ledger.reserve(u.owner, size) {
			return
		}
		if e == nil {
			u.slot = x.begin(dgst)
		} else {
			u.slot = s
			x.pin(s)
			if f != nil {
				f.handles++
			}
		}
		u.file = f
		m.spools[u] = true
	case 1: // a download ends well
		if u := pick(r, m.spools); u != nil && !u.done {
			commit(x, m, u)
		}
	case 2: // a spool is closed, whether it was committed or not
		if u := pick(r, m.spools); u != nil {
			x.ledger.release(u.owner, u.surplus)
			if !u.done {
				x.ledger.release(u.owner, u.size)
			}
			delete(m.spools, u)
			x.unpin(u.slot)
			m.close(u.file)
		}
	case 3: // a blob is opened
		if f != nil && len(m.spools) > 0 {
			x.pin(f.slot)
			f.handles++
			u := &upload{digest: dgst, slot: f.slot, file: f, done: true} // a handle that case 2 closes
			m.spools[u] = true
		}
	case 4: // a blob is evicted
		if s, e := x.lru.oldest(); e != nil {
			x.beginDelete(s)
			x.finishDelete(s, true, 1)
			m.drop(m.bySlot(s))
		}
	case 5: // a deletion fails
		if s, e := x.lru.oldest(); e != nil {
			x.beginDelete(s)
			x.finishDelete(s, false, 1)
		}
	case 7: // the owner of a blob becomes known
		if o := owner(r.IntN(4)); f != nil && !f.gone {
			x.give(f.slot, o)
			if f.owner == unowned {
				f.owner = o
			}
		}
	case 6: // a blob is deleted while it is in use
		if f != nil && f.handles > 0 {
			x.detach(f.slot)
			f.gone = true
		}
	}
}

func (m *model) bySlot(s slot) *file {
	for _, f := range m.files {
		if f.slot == s {
			return f
		}
	}
	return nil
}

func (m *model) close(f *file) {
	if f == nil {
		return
	}
	if f.handles--; f.handles == 0 && f.gone {
		m.drop(f)
	}
}

// commit makes the first upload of a blob a file, with all other uploads of it
// as its users.
func commit(x *index, m *model, u *upload) {
	u.done = true
	first := x.commit(u.slot, u.owner, u.size, u.size)
	if (u.file == nil) != first {
		panic("the first commit is not the one that counts")
	}
	if !first {
		u.surplus = u.size
		return
	}
	f := &file{digest: u.digest, size: u.size, owner: u.owner, slot: u.slot}
	for other := range m.spools {
		if other.slot == u.slot && other.file == nil {
			other.file = f
			f.handles++
		}
	}
	m.files = append(m.files, f)
}

func pick(r *rand.Rand, spools map[*upload]bool) *upload {
	if len(spools) == 0 {
		return nil
	}
	n := r.IntN(len(spools))
	for u := range spools {
		if n == 0 {
			return u
		}
		n--
	}
	return nil
}

// A blob can be deleted between the moment that its commit makes it visible and
// the end of the commit. Its bytes stay until the spool is closed.
func TestIndexDetachesWhatIsBeingCommitted(t *testing.T) {
	x := index{lru: newLRU(), ledger: ledger{max: 1000}}
	dgst := digest.FromString("x")
	x.ledger.reserve(unowned, 300)
	first := x.begin(dgst)
	x.pin(first) // a second upload of the same content
	x.ledger.reserve(unowned, 300)
	x.detach(first)
	if !x.commit(first, unowned, 300, 300) || x.commit(first, unowned, 300, 300) {
		t.Error("want the first commit alone to count")
	}
	if _, e := x.lru.find(keyOf(dgst)); e != nil {
		t.Error("the deleted content can be found")
	}
	want := ledger{max: 1000, stored: 300, pinned: 300, reserved: 300}
	want.accounts[unowned] = account{stored: 300, pinned: 300, reserved: 300}
	if x.ledger != want {
		t.Errorf("%+v, want %+v", x.ledger, want)
	}
	x.unpin(first)
	x.ledger.release(unowned, 300)
	x.unpin(first)
	if want := (ledger{max: 1000}); x.ledger != want {
		t.Errorf("%+v, want %+v", x.ledger, want)
	}
}
