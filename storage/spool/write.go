package spool

import (
	"cmp"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"slices"
)

// Announce tells how many bytes will come, and sets space aside for them. It
// returns ErrNoSpace when there is not enough.
func (s *Spool) Announce(size int64) error {
	if err := s.grow(size); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
	s.broadcast()
	return nil
}

// grow sets space aside for a file of size bytes. It holds up nobody who
// follows the spool.
func (s *Spool) grow(size int64) error {
	s.growing.Lock()
	defer s.growing.Unlock()
	s.mu.Lock()
	allot, more := max(0, size-s.allotted), max(0, size-s.written-s.reserved)
	s.mu.Unlock()
	if allot == 0 && more == 0 {
		return nil
	}
	if err := s.dir.setAside(allot, more, !s.urgent); err != nil {
		return err
	}
	s.mu.Lock()
	s.allotted += allot
	s.reserved += more
	s.mu.Unlock()
	return nil
}

// Write appends p at the watermark.
func (s *Spool) Write(p []byte) (int, error) {
	return s.WriteAt(p, s.Written())
}

// WriteAt writes p at an offset and moves the watermark as far as the bytes
// are contiguous. It returns ErrSize for bytes beyond the announced size,
// ErrNoSpace, or the error of the filesystem.
func (s *Spool) WriteAt(p []byte, off int64) (int, error) {
	if err := s.admit(off+int64(len(p)), int64(len(p))); err != nil {
		return 0, err
	}
	n, err := s.file.WriteAt(p, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	if used := min(int64(n), s.reserved); used > 0 {
		s.reserved -= used
		s.dir.release(used)
	}
	if s.advance(extent{off, off + int64(n)}) {
		s.broadcast()
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return n, fmt.Errorf("%w: %w: free space on its filesystem, or raise the quota", ErrNoSpace, err)
	case err != nil:
		return n, fmt.Errorf("spool: %w", err)
	}
	return n, nil
}

// admit checks that a write up to end fits the announced size, and reserves
// space where none was announced.
func (s *Spool) admit(end, n int64) error {
	s.mu.Lock()
	size, reserved, written := s.size, s.reserved, s.written
	s.mu.Unlock()
	switch {
	case size >= 0 && end > size:
		return fmt.Errorf("%w: byte %d of %d", ErrSize, end, size)
	case size >= 0 || reserved >= n:
		return nil
	}
	err := s.grow(max(end, written+reserved+max(reserveStep, n)))
	if errors.Is(err, ErrNoSpace) {
		err = s.grow(max(end, written+n)) // there may be room for the rest
	}
	return err
}

// advance merges what was written and reports whether the watermark moved.
func (s *Spool) advance(e extent) bool {
	if e.from > s.written {
		at, _ := slices.BinarySearchFunc(s.ahead, e, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
		s.ahead = slices.Insert(s.ahead, at, e)
		return false
	}
	before := s.written
	s.written = max(s.written, e.to)
	for len(s.ahead) > 0 && s.ahead[0].from <= s.written {
		s.written = max(s.written, s.ahead[0].to)
		s.ahead = s.ahead[1:]
	}
	return s.written > before
}
