package evict

// Usage is what a Store counts.
type Usage struct {
	Stored, Reserved, Pinned int64
	Objects                  int
}

// Usage returns the counts of this moment.
func (s *Store) Usage() Usage {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	l := &i.index.ledger
	return Usage{Stored: l.stored, Reserved: l.reserved, Pinned: l.pinned, Objects: len(i.index.lru.byKey)}
}

// Loaded is closed when the index is complete.
func (s *Store) Loaded() <-chan struct{} { return s.inventory.loaded }
