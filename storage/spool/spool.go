// Package spool is a file that grows while many readers follow it.
//
// One writer appends (or writes at offsets, so that several segments can arrive
// at once); the spool keeps a watermark, the number of bytes that are there
// without a gap. A reader that has come to the watermark waits until it has moved
// far enough to be worth a wake-up (see wake.go). A wait can be cancelled, and a
// slow reader delays no other reader.
//
// The last [TailHold] bytes are kept from readers until [Spool.Complete] says
// that the content has been verified. A reader of a corrupt or truncated
// content can therefore never reach its end. [Spool.Fail] reaches every reader
// as an error, after the bytes it could still read.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/internal/regular"
)

// TailHold is the number of bytes at the end of a spool that its readers cannot
// see before the content has been verified. It is small, so that readers lag
// little, and larger than the last buffer of a decompressor, so that no client
// takes corrupt content for complete.
const TailHold = 32 << 10

// maxAhead bounds the space that a spool reserves before its bytes come: few
// reservations for a large download, little waste for one that stalls. It never
// exceeds the bytes that have come, so that a source gets no space for a promise.
const maxAhead = 16 << 20

var (
	// ErrSize says that more or fewer bytes came than were announced.
	ErrSize = errors.New("spool: not the announced number of bytes")
	// ErrClosed says that a spool or reader was used after its Close.
	ErrClosed = errors.New("spool: closed")
)

// Spool is a growing temporary file. All methods may be called concurrently, and
// writes may overlap: the first write of a byte counts, so that a byte which has
// been hashed or read never changes.
type Spool struct {
	dir    *Dir
	owner  string // "": none
	file   *os.File
	noWait bool // no call may wait for room

	growing sync.Mutex // held while more space is asked for, which can take long

	mu       sync.Mutex
	size     int64      // announced or, once complete, actual; -1: unknown
	covered  extents    // the bytes that are there
	writing  extents    // the bytes that writers are about to add to them
	allotted int64      // taken from dir's quota for the file, written or not
	reserved int64      // promised by dir and not yet written
	pending  int64      // claimed by writes that are under way
	read     int64      // the furthest offset that a reader has been given
	settled  *sync.Cond // a writer has finished
	told     bool       // a reader has been told the size
	complete bool
	broken   bool // interrupted: no more bytes will come, and the present ones are good
	renamed  bool
	err      error
	path     string           // of the file
	waiters  []*waiter        // for a change of the above
	overdue  *time.Timer      // wakes those that wait for more bytes; nil before it is needed
	timed    bool             // overdue runs
	arrived  notify.Broadcast // bytes anywhere
	refs     int              // the owner's and each reader's; the last one closes the file
	closed   func()           // called after that, when set
}

// Complete declares the content verified and releases the withheld tail. It
// returns ErrSize when bytes are missing.
func (s *Spool) Complete() error {
	defer s.shrink()
	s.mu.Lock()
	defer s.mu.Unlock()
	written := s.covered.start()
	// A gap, or a write that is still running, leaves bytes behind the watermark.
	if len(s.writing) > 0 || written != s.covered.end() || s.size >= 0 && written != s.size {
		return fmt.Errorf("%w: %d of %d", ErrSize, written, s.size)
	}
	s.size = written
	s.complete = true
	s.wakeAll()
	return nil
}

// Fail ends the spool: readers get the visible bytes, then err.
func (s *Spool) Fail(err error) {
	defer s.shrink()
	s.mu.Lock()
	defer s.mu.Unlock()
	// The first end counts: readers may have seen it already.
	if s.err == nil && !s.complete {
		s.err = err
		s.wakeAll()
	}
}

// Interrupt ends a spool that cannot grow any more although its bytes are good:
// readers get all bytes before the first gap, the withheld part included, then
// err. A reader that continues from another source must verify the complete
// content before returning EOF.
func (s *Spool) Interrupt(err error) {
	defer s.shrink()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.complete {
		s.err = err
		s.broken = true
		s.wakeAll()
	}
}

// shrink gives back the space of bytes that will not be written any more, if the
// spool has ended.
func (s *Spool) shrink() {
	s.mu.Lock()
	var surplus, reserved int64
	if s.complete || s.err != nil {
		// Bytes beyond a gap are in the file too, so the quota still counts them, and those
		// that are being written.
		surplus, reserved = max(0, s.allotted-s.covered.total()-s.pending), s.reserved
		s.allotted -= surplus
		s.reserved = 0
	}
	s.mu.Unlock()
	s.dir.release(reserved)
	s.dir.quota.Release(s.owner, surplus)
}

// Reset empties a spool so that its content can be written again. It reports
// false if it cannot, because a reader has been given bytes or the size already, or a write
// is running.
func (s *Spool) Reset() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A failed truncation leaves old bytes behind the new ones.
	if s.read > 0 || s.told || s.pending > 0 || len(s.writing) > 0 || s.complete || s.err != nil || s.file.Truncate(0) != nil {
		return false
	}
	s.covered, s.size = nil, -1
	return true
}

// NoWait reports whether a client is waiting, so that Commit must not block on
// eviction.
func (s *Spool) NoWait() bool { return s.noWait }

// Owner returns the owner of the bytes, "" if there is none.
func (s *Spool) Owner() string { return s.owner }

// Written returns the watermark: the number of bytes before the first gap.
func (s *Spool) Written() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covered.start()
}

// Covered returns the end of the bytes that are there from off on without a gap; off if
// there is none.
func (s *Spool) Covered(off int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covered.next(off)
}

// Ahead returns the start and the end of the first stretch of at least n bytes that are
// there and begin at or behind off, and -1 if there is none.
func (s *Spool) Ahead(off, n int64) (from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.covered {
		if from := max(off, e.from); e.to-from >= n {
			return from, e.to
		}
	}
	return -1, -1
}

// Stretches returns how many stretches of bytes, with gaps between them, there are.
func (s *Spool) Stretches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.covered)
}

// Arrival returns a channel that is closed when further bytes are there, at any offset.
func (s *Spool) Arrival() <-chan struct{} { return s.arrived.Wait() }

// ReadBack reads bytes that are there, whether or not readers may have them: into the hash,
// or for the client that asked for just these. It returns fewer than len(p) bytes only if
// the others are not there.
func (s *Spool) ReadBack(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), s.Covered(off)-off)
	if n <= 0 {
		return 0, nil
	}
	read, err := s.file.ReadAt(p[:n], off)
	if err != nil {
		return read, fmt.Errorf("spool: cannot read back: %w", err)
	}
	return read, nil
}

// Readable returns the number of bytes that readers can see now.
func (s *Spool) Readable() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visible()
}

// Size returns the number of bytes that were announced or, of a complete
// spool, that it has; -1 if it is not known yet.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// Promise is Size for a reader that tells its client the size. It does not change any more, if it
// is known.
func (s *Spool) Promise() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = s.told || s.size >= 0
	return s.size
}

// Prepare gives the file the mode that it has in its final place, and returns what the
// filesystem says about it then. It does not flush the file.
func (s *Spool) Prepare(mode fs.FileMode) (fs.FileInfo, error) {
	info, err := s.file.Stat()
	if err != nil || info.Mode() == mode {
		return info, err
	}
	if err := s.file.Chmod(mode); err != nil {
		return nil, err
	}
	return s.file.Stat()
}

// Sync flushes the file to stable storage.
func (s *Spool) Sync() error { return s.file.Sync() }

// Rename moves the file to its final place in the same filesystem. Readers
// read on, and Close no longer removes it.
func (s *Spool) Rename(path string) error {
	if err := regular.Rename(s.file.Name(), path); err != nil {
		return err
	}
	s.mu.Lock()
	s.renamed, s.path = true, path
	s.mu.Unlock()
	return nil
}

// TransferQuota transfers the file's part of the quota to the caller, which gives it
// back, and returns its bytes. A store that has made the file its own calls it.
// Closed is called when neither the spool nor a reader has the file open any more.
func (s *Spool) TransferQuota(closed func()) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	allotted := s.allotted
	s.allotted = 0
	s.closed = closed
	return allotted
}

// Close is called once by the spool's owner. A spool that is neither complete
// nor failed fails with ErrClosed; a file that was not renamed is removed.
// Readers that are open read on.
func (s *Spool) Close() error {
	s.Fail(ErrClosed)
	s.mu.Lock()
	renamed := s.renamed
	s.mu.Unlock()
	var err error
	if !renamed { // else the file is content of the store
		err = os.Remove(s.file.Name())
	}
	return errors.Join(err, s.unref())
}

// visible is how far readers may read now. The caller holds the mutex.
func (s *Spool) visible() int64 {
	written := s.covered.start()
	switch {
	// A broken spool whose last byte is there may be the whole, unverified content.
	case s.complete, s.broken && written != s.size:
		return written
	case s.size >= 0:
		return max(0, min(written, s.size-TailHold))
	// Any byte may be the last one.
	default:
		return max(0, written-TailHold)
	}
}

func (s *Spool) unref() error {
	s.mu.Lock()
	s.refs--
	last, allotted, closed := s.refs == 0, s.allotted, s.closed
	s.mu.Unlock()
	if !last {
		return nil
	}
	// The quota gets its bytes back after the filesystem does.
	err := s.file.Close()
	s.dir.quota.Release(s.owner, allotted)
	if closed != nil {
		closed()
	}
	return err
}
