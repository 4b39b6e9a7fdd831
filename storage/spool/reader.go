package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Reader follows a spool from its own offset. It is an io.ReadSeekCloser for
// one goroutine.
type Reader struct {
	spool  *Spool
	ctx    context.Context
	off    int64
	closed bool
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
	return &Reader{spool: s, ctx: ctx}, nil
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
	n, err := r.spool.await(r.ctx, r.off, int64(len(p)))
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

// await returns how many of want bytes can be read at off, at least one.
func (s *Spool) await(ctx context.Context, off, want int64) (int64, error) {
	for {
		s.mu.Lock()
		// Visible bytes come before the failure of a spool.
		if n := min(s.visible()-off, want); n > 0 {
			s.read = max(s.read, off+n)
			s.mu.Unlock()
			return n, nil
		}
		complete, err, advanced := s.complete, s.err, s.advanced.Wait()
		s.mu.Unlock()
		if complete {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
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
	return r.spool.unref()
}

// ReadAt reads at an offset of a complete spool. It may be called concurrently.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	return r.spool.file.ReadAt(p, off)
}
