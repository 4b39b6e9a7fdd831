package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/weirhq/weir/internal/regular"
)

// Reader follows a spool from its own offset. It is an io.ReadSeekCloser for
// one goroutine.
type Reader struct {
	spool  *Spool
	ctx    context.Context
	off    int64
	waiter waiter
	closed bool

	own      *os.File // the same file by a descriptor of this reader's own; nil before it is needed
	unopened bool     // it cannot be opened
}

// NewReader returns a reader at the start of the spool, whose waits end with
// ctx. It returns ErrClosed when nothing holds the file open any more.
func (s *Spool) NewReader(ctx context.Context) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs == 0 { // the file is closed
		return nil, ErrClosed
	}
	s.refs++
	return &Reader{spool: s, ctx: ctx, waiter: newWaiter()}, nil
}

// Read blocks until there is a byte to read at the reader's offset. It returns
// io.EOF only at the end of a complete spool, otherwise the spool's failure or
// the context's error.
func (r *Reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, ErrClosed
	}
	if len(p) == 0 { // await would block for a byte that nothing reads
		return 0, nil
	}
	n, err := r.spool.await(r.ctx, &r.waiter, r.off, int64(len(p)), true)
	if err != nil {
		return 0, err
	}
	read, err := r.spool.file.ReadAt(p[:n], r.off)
	r.off += int64(read)
	if err != nil {
		return read, fmt.Errorf("spool: cannot read back: %w", err)
	}
	return read, nil
}

// Stretch blocks as Read does, and returns the next bytes, at most limit, as a part of
// the file that the kernel can send by itself. The reader's offset stays; Advance
// moves it. A following call uses the same file, so the part ends with it. Stretch returns
// nil if only Read can go on, which also returns the reason: the spool has ended,
// or the file cannot be opened once more.
func (r *Reader) Stretch(limit int64) *io.LimitedReader {
	if r.closed || limit <= 0 || !r.open() {
		return nil
	}
	n, err := r.spool.await(r.ctx, &r.waiter, r.off, limit, true)
	if err != nil {
		return nil
	}
	if _, err := r.own.Seek(r.off, io.SeekStart); err != nil {
		return nil
	}
	return &io.LimitedReader{R: r.own, N: n}
}

// Advance moves the offset past n bytes of a Stretch.
func (r *Reader) Advance(n int64) { r.off += n }

// open opens the file once more, for this reader alone: sendfile(2) reads at the position
// of a file, and all users of one descriptor share that. It reports false if it cannot.
func (r *Reader) open() bool {
	if r.own != nil || r.unopened {
		return r.own != nil
	}
	file, err := r.spool.reopen()
	// It may have been renamed between the look at its path and the call.
	if errors.Is(err, fs.ErrNotExist) {
		file, err = r.spool.reopen()
	}
	r.own, r.unopened = file, err != nil
	return err == nil
}

// reopen opens the spool's file by its path. It returns an error if another file has the
// place, such as content that was evicted and stored again.
func (s *Spool) reopen() (*os.File, error) {
	s.mu.Lock()
	path := s.path
	s.mu.Unlock()
	file, there, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	want, err := s.file.Stat()
	if err == nil && !os.SameFile(there, want) {
		err = fs.ErrExist
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Seek sets the offset of the next Read. Seeking from the end needs a spool
// whose size is known.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		size := r.spool.Size()
		if size < 0 {
			return 0, errors.New("spool: cannot seek from an end that is not known yet")
		}
		offset += size
	}
	if offset < 0 {
		return 0, errors.New("spool: cannot seek before the start")
	}
	r.off = offset
	return offset, nil
}

// Close gives the reader's hold on the file back.
func (r *Reader) Close() error {
	if r.closed {
		return ErrClosed
	}
	r.closed = true
	var err error
	if r.own != nil { // before the quota gets the bytes back
		err = r.own.Close()
	}
	return errors.Join(err, r.spool.unref())
}

// ReadAt reads at an offset of a complete spool. It may be called concurrently.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	return r.spool.file.ReadAt(p, off)
}
