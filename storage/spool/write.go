package spool

import (
	"errors"
	"fmt"
)

// Announce sets the size of the content. It returns ErrNoSpace if there cannot be
// room for it, whatever is removed. Nothing is reserved for an announcement: the
// source may announce any size, and send nothing.
func (s *Spool) Announce(size int64) error {
	s.mu.Lock()
	allot, more := max(0, size-s.allotted), max(0, size-s.covered.total()-s.reserved)
	s.mu.Unlock()
	// A download that is resumed announces again, and may have all its space.
	if allot > 0 || more > 0 {
		if err := s.dir.check(s.owner, allot, more); err != nil {
			return s.withOwn(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
	s.wakeAll()
	return nil
}

// grow reserves space for n bytes that have come and end at offset end, and up to
// ahead bytes more if they are free now. That can take long, but does not block
// readers.
func (s *Spool) grow(end, n, ahead int64) error {
	s.growing.Lock()
	defer s.growing.Unlock()
	s.mu.Lock()
	// The file's share of the quota is for its length. The promise of the
	// filesystem is for those bytes that are not written yet.
	allot, more := max(0, end-s.allotted), max(0, n-s.reserved)
	ahead = max(0, ahead-max(0, s.allotted-end)) // it may be there, after a Reset
	s.mu.Unlock()
	extra, err := s.dir.reserve(s.owner, allot, more, ahead, !s.noWait)
	if err != nil {
		return s.withOwn(err)
	}
	s.mu.Lock()
	s.allotted += allot + extra
	s.reserved += more + extra
	s.mu.Unlock()
	// The spool may have ended meanwhile, and needs the space no more.
	s.shrink()
	return nil
}

// withOwn adds the bytes that the spool has already to a lack of space.
func (s *Spool) withOwn(err error) error {
	if full, ok := errors.AsType[*NoSpaceError](err); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		full.Own = s.covered.total() + s.reserved
	}
	return err
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
		s.wakeReady()
	}
}

// unclaim gives back the claims within e.
func (s *Spool) unclaim(e extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing.remove(e)
	s.settled.Broadcast()
}

// ensure checks that a write of n bytes up to end fits the announced size, and
// reserves space for it unless Create or an earlier write has.
func (s *Spool) ensure(end, n int64) error {
	s.mu.Lock()
	size, reserved, allotted := s.size, s.reserved, s.allotted
	missing := n - s.covered.count(extent{end - n, end}) // the others are in the file
	come := s.covered.total() + missing
	s.mu.Unlock()
	switch {
	case size >= 0 && end > size:
		return fmt.Errorf("%w: byte %d of %d", ErrSize, end, size)
	case reserved >= missing && end <= allotted:
		return nil
	}
	ahead := min(come, maxAhead)
	if size >= 0 {
		ahead = min(ahead, size-end)
	}
	return s.grow(end, missing, ahead)
}
