package spool

import (
	"errors"
	"fmt"
)

// Announce sets the size of the content, and reserves space for it. It returns
// ErrNoSpace if there is not enough.
func (s *Spool) Announce(size int64) error {
	if err := s.grow(size); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
	s.advanced.Notify()
	return nil
}

// grow reserves space for a file of size bytes. That can take long, but does not
// block readers.
func (s *Spool) grow(size int64) error {
	s.growing.Lock()
	defer s.growing.Unlock()
	s.mu.Lock()
	// The file's share of the quota is for its length. The promise of the
	// filesystem is for those bytes that are not written yet.
	allot, more := max(0, size-s.allotted), max(0, size-s.covered.total()-s.reserved)
	s.mu.Unlock()
	if allot == 0 && more == 0 { // a download that is resumed announces again
		return nil
	}
	if err := s.dir.reserve(allot, more, !s.noWait); err != nil {
		return err
	}
	s.mu.Lock()
	s.allotted += allot
	s.reserved += more
	s.mu.Unlock()
	// The spool may have ended meanwhile, and needs the space no more.
	s.shrink()
	return nil
}

// Write appends p at the watermark. Only one goroutine may append.
func (s *Spool) Write(p []byte) (int, error) {
	return s.WriteAt(p, s.Written())
}

// WriteAt writes p at an offset and moves the watermark as far as the bytes
// are contiguous. Bytes that the spool has already are not written again; a
// write that overlaps a running one waits for it. WriteAt returns how many bytes
// of p, from its start, the spool has. It returns ErrSize for bytes beyond the
// announced size, ErrNoSpace, or the error of the filesystem.
func (s *Spool) WriteAt(p []byte, off int64) (int, error) {
	want := extent{off, off + int64(len(p))}
	if err := s.ensure(want.to, int64(len(p))); err != nil {
		return 0, err
	}
	for _, gap := range s.claim(want) {
		n, err := s.file.WriteAt(p[gap.from-off:gap.to-off], gap.from)
		s.wrote(gap, int64(n))
		if err != nil {
			// Other writers may fill the gaps that this one gives up.
			s.unclaim(extent{gap.to, want.to})
			return int(gap.from-off) + n, s.dir.writeError(err)
		}
	}
	return len(p), nil
}

// claim returns the parts of want that the spool lacks, for the caller to write.
// No other writer gets them until they are written or given back.
func (s *Spool) claim(want extent) []extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing.overlap(want) {
		s.settled.Wait()
	}
	gaps := s.covered.gaps(want)
	for _, gap := range gaps {
		s.writing.add(gap)
	}
	return gaps
}

// wrote adds the first n bytes of a claimed gap to the spool, and ends the claim.
func (s *Spool) wrote(gap extent, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing.remove(gap)
	s.settled.Broadcast()
	before := s.covered.start()
	s.covered.add(extent{gap.from, gap.from + n})
	// A spool that has ended has given its promise back already.
	if used := min(n, s.reserved); used > 0 {
		s.reserved -= used
		s.dir.release(used)
	}
	if s.covered.start() > before {
		s.advanced.Notify()
	}
}

// unclaim gives back the claims within e.
func (s *Spool) unclaim(e extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing.remove(e)
	s.settled.Broadcast()
}

// ensure checks that a write up to end fits the announced size. If no size was
// announced, it reserves space.
func (s *Spool) ensure(end, n int64) error {
	s.mu.Lock()
	size, reserved, allotted, covered := s.size, s.reserved, s.allotted, s.covered.total()
	s.mu.Unlock()
	switch {
	case size >= 0 && end > size:
		return fmt.Errorf("%w: byte %d of %d", ErrSize, end, size)
	case size >= 0 || reserved >= n && end <= allotted: // Announce or an earlier write has reserved it
		return nil
	}
	err := s.grow(max(end, covered+reserved+max(reserveStep, n)))
	if errors.Is(err, ErrNoSpace) {
		err = s.grow(max(end, covered+n)) // there may be room for the rest
	}
	return err
}
