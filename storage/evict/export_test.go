package evict

// Usage is what a Store counts.
type Usage struct {
	Stored, Reserved, Pinned int64
	Objects                  int
}

// Usage returns what is counted at the moment.
func (l *Store) Usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Usage{Stored: l.index.stored, Reserved: l.reserved, Pinned: l.index.pinned, Objects: len(l.index.byKey)}
}

// Loaded is closed when the index is complete.
func (l *Store) Loaded() <-chan struct{} { return l.loaded }
