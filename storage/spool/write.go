package spool

import (
	"errors"
	"fmt"
)

// Announce sets the size of the content. It returns ErrSize if another one is known, which
// readers may have been told, and ErrNoSpace if there cannot be room for it, whatever is
// removed. Nothing is reserved for an announcement: the source may announce any size, and
// send nothing.
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
	if s.size >= 0 && s.size != size {
		return fmt.Errorf("%w: %d, and %d before", ErrSize, size, s.size)
	}
	s.size = size
	s.wakeAll()
	return nil
}

// grow reserves space for the n bytes of a write that have come, and up to ahead bytes more
// if they are free now. That can take long, but does not block readers.
func (s *Spool) grow(n, ahead int64) error {
	s.growing.Lock()
	defer s.growing.Unlock()
	s.mu.Lock()
	// The file is sparse: bytes before a gap cost nothing, whatever their offset.
	allot, more := s.lacking(n)
	ahead = max(0, ahead-max(0, -allot)) // it may be there, after a Reset
	allot, more = max(0, allot), max(0, more)
	s.mu.Unlock()
	extra, err := s.dir.reserve(s.owner, allot, more, ahead, !s.noWait)
	if err != nil {
		return s.withOwn(err)
	}
	s.mu.Lock()
	s.allotted += allot + extra
	s.reserved += more + extra
	s.mu.Unlock()
	// The spool may have ended meanwhile, and no longer need the space.
	s.shrink()
	return nil
}

// lacking returns how many bytes of the quota and of the promised space are missing for a
// write of n bytes in addition to those that are under way. The caller holds the mutex.
func (s *Spool) lacking(n int64) (allot, more int64) {
	return s.covered.total() + s.pending + n - s.allotted, s.pending + n - s.reserved
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
	n, _, err := s.Put(p, off)
	return n, err
}

// Put is WriteAt, and reports whether the bytes that it counts are those of p. If not, the
// spool had some of them before, which may differ: only what the file holds may be hashed.
func (s *Spool) Put(p []byte, off int64) (n int, own bool, err error) {
	want := extent{off, off + int64(len(p))}
	gaps, err := s.claim(want)
	if err != nil {
		return 0, true, err
	}
	own = len(p) == 0 || len(gaps) == 1 && gaps[0] == want
	for _, gap := range gaps {
		n, err := s.file.WriteAt(p[gap.from-off:gap.to-off], gap.from)
		s.wrote(gap, int64(n))
		if err != nil {
			// Other writers may fill the gaps that this one gives up.
			s.unclaim(extent{gap.to, want.to})
			return int(gap.from-off) + n, own, s.dir.writeError(err)
		}
	}
	return len(p), own, nil
}

// claim returns the parts of want that the spool lacks, for the caller to write. No other
// writer gets them until they are written or given back. A claim has its space: claim checks
// that want fits the announced size, and reserves the space unless Create or an earlier write has.
func (s *Spool) claim(want extent) ([]extent, error) {
	for asked := false; ; asked = true {
		s.mu.Lock()
		// Before the bytes are counted, so that no two writers reserve space for the same ones.
		for s.writing.overlap(want) {
			s.settled.Wait()
		}
		missing := want.to - want.from - s.covered.count(want) // the others are in the file
		allot, more := s.lacking(missing)
		size := s.size
		fits := size < 0 || want.to <= size
		// A spool that has ended gets no space, and takes the bytes that are under way.
		if fits && (allot <= 0 && more <= 0 || asked && (s.complete || s.err != nil)) {
			gaps := s.covered.gaps(want)
			for _, gap := range gaps {
				s.writing.add(gap)
			}
			s.pending += missing
			s.mu.Unlock()
			return gaps, nil
		}
		come := s.covered.total() + s.pending + missing
		s.mu.Unlock()
		if !fits {
			return nil, fmt.Errorf("%w: byte %d of %d", ErrSize, want.to, size)
		}
		ahead := min(come, maxAhead)
		if size >= 0 {
			ahead = max(0, min(ahead, size-come))
		}
		if err := s.grow(missing, ahead); err != nil {
			return nil, err
		}
	}
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
	s.pending -= gap.to - gap.from
	if s.covered.start() > before {
		s.wakeReady()
	}
	s.arrived.Notify()
}

// unclaim gives back the claims within e, which are the caller's.
func (s *Spool) unclaim(e extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending -= s.writing.count(e)
	s.writing.remove(e)
	s.settled.Broadcast()
}
