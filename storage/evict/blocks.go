package evict

import (
	"cmp"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

// MaxCaps is how many owners can have a cap. They have numbers of their own, beside those of
// owners that were configured before.
const MaxCaps = 200

// Block is an owner that is configured.
type Block struct {
	Name  string
	Bytes int64 // of stored content that it brought in
	Limit int64 // its cap on them; 0: none
}

// SetBlocks says which owners are configured, each with its cap on the bytes of content that
// it brought in; 0: no cap. If an owner has more, its least recently used content is
// evicted, and no download waits for that. A blob that is larger than the cap goes as soon
// as it is not in use.
func (s *Store) SetBlocks(caps map[string]int64) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.setBlocks(caps) {
		i.wanted.Notify()
	}
	i.wake.Notify()
}

// setBlocks puts caps in force, and reports whether there is one. The caller holds the mutex.
func (i *inventory) setBlocks(caps map[string]int64) (capped bool) {
	i.blocks = slices.Sorted(maps.Keys(caps))
	accounts := &i.index.ledger.accounts
	for o := range accounts {
		accounts[o].cap = 0
	}
	// Owners with a cap have numbers of their own, so they come first.
	byCap := slices.Clone(i.blocks)
	slices.SortStableFunc(byCap, func(a, b string) int { return cmp.Compare(caps[b], caps[a]) })
	for _, name := range byCap {
		o := i.owner(name)
		if _, own := i.owners[name]; own {
			accounts[o].cap = caps[name]
		}
		capped = capped || caps[name] > 0
	}
	return capped
}

// Blocks returns the configured owners in alphabetical order. It reports false before the index
// is complete: the bytes are not known then.
func (s *Store) Blocks() (blocks []Block, known bool) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.listBlocks(), i.ready
}

// Owner returns the owner of a blob, or "" if it is not known.
func (s *Store) Owner(dgst digest.Digest) string {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, e := i.index.lru.find(keyOf(dgst)); e != nil && e.owner != unowned {
		return i.name(e.owner)
	}
	return ""
}

// listBlocks returns the configured owners. The caller holds the mutex.
func (i *inventory) listBlocks() []Block {
	blocks := make([]Block, 0, len(i.blocks))
	for _, name := range i.blocks {
		if o, own := i.owners[name]; own {
			a := &i.index.ledger.accounts[o]
			blocks = append(blocks, Block{Name: name, Bytes: a.stored, Limit: a.cap})
		}
	}
	return blocks
}

// overCap returns the least recently used content of an owner that has more than its cap, or
// nil. Leaving is how many bytes of each owner go already. The content may be content that others have used since: all count as uses.
func (x *index) overCap(leaving *[maxOwners]int64) (slot, *entry) {
	for o := range x.lru.ends {
		if !x.ledger.accounts[o].exceeded(leaving[o]) {
			continue
		}
		if s, e := x.lru.oldestOf(owner(o)); e != nil {
			return s, e
		}
	}
	return 0, nil
}
