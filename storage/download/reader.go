package download

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// reach is how far ahead of the download a reader may be and still wait
	// for it; beyond, it asks the source itself.
	reach = 1 << 20
	// window is how much a reader that is ahead asks for at a time, so that it
	// returns to the download once that has caught up.
	window = 8 << 20
)

// Reader reads the content of a flight: an io.ReadSeekCloser for one
// goroutine, whose waits end with the context it was opened with.
//
// It follows the flight's spool. It turns to its own source for a range far
// ahead of the download, without disturbing that, and when the flight ends
// early for a reason that is not this reader's: because the store failed, or
// because the upstream of another repository did. What continues to the end of
// the content is verified as a whole; as in a spool, its last bytes are
// withheld until then.
type Reader struct {
	ctx    context.Context
	flight *Download
	src    Source
	joined bool
	off    int64
	end    int64 // nobody reads this byte or later ones; -1: to the end
	size   int64 // -1: not known yet
	closed bool

	current io.ReadCloser // nil when what to read is to be decided anew
	at      int64         // the offset that current reads at
	follows bool          // current is the spool
	until   int64         // where a window ends; -1 for everything else
}

func newReader(ctx context.Context, f *Download, src Source, joined bool) *Reader {
	f.flights.opts.Metrics.readerOpened()
	return &Reader{ctx: ctx, flight: f, src: src, joined: joined, end: -1, size: -1, until: -1}
}

// Joined reports whether the flight was there before this reader.
func (r *Reader) Joined() bool { return r.joined }

// Repository returns whose source the flight was started from.
func (r *Reader) Repository() storage.RepoID { return r.flight.src.Repository }

// Origin returns who delivers the content, for people; "" while nobody does.
func (r *Reader) Origin() string {
	r.flight.mu.Lock()
	defer r.flight.mu.Unlock()
	return r.flight.origin
}

// Stored reports whether the content is, as far as can be said now, on its way
// into the store.
func (r *Reader) Stored() bool { return r.flight.failure() == nil }

// Wait blocks until the reader's first bytes, from start on, are at hand, so
// that what fails before can still be answered as an error. Nobody is expected
// to read the byte at end or later ones; -1 is the end of the content. Wait
// returns the content's size, or -1 where the source does not say.
func (r *Reader) Wait(start, end int64) (int64, error) {
	r.off, r.end = start, end
	if r.ahead() {
		// A range far ahead is answered at once, whatever the download does.
		if err := r.choose(); err != nil {
			return 0, err
		}
		if r.size >= 0 {
			return r.size, nil
		}
	}
	if err := r.awaitReady(); err != nil {
		return 0, err
	}
	if s, _ := r.flight.progress(); s != nil {
		if start < reach {
			if err := s.Await(r.ctx); err != nil && !r.recoverable(err) {
				return 0, err
			}
		}
		r.size = s.Size()
	}
	if failed := r.flight.failure(); failed != nil && r.size < 0 {
		if err := r.choose(); err != nil {
			return 0, err
		}
	}
	return r.size, nil
}

// Read reads at the reader's offset, and waits for bytes that are not there
// yet. Only io.EOF says that the content is complete and verified.
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if r.closed {
			return 0, spool.ErrClosed
		}
		if r.size >= 0 && r.off >= r.size {
			return 0, io.EOF
		}
		if r.at != r.off {
			r.drop()
		}
		if r.current == nil {
			if err := r.choose(); err != nil {
				return 0, err
			}
		}
		n, err := r.current.Read(p)
		r.off += int64(n)
		r.at = r.off
		switch {
		case n > 0:
			return n, nil
		case err == io.EOF && r.until >= 0 && r.off >= r.until:
			r.drop() // the end of a window; the download may have caught up
		case err == io.EOF && r.size >= 0 && r.off < r.size:
			return 0, io.ErrUnexpectedEOF
		case err != nil && r.follows && r.recoverable(err):
			r.drop()
		case err != nil:
			return 0, err
		}
	}
}

// Seek sets the offset of the next Read. Seeking from the end needs a size.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		if r.size < 0 {
			return 0, errors.New("storage: the size of the content is not known yet")
		}
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("storage: cannot seek before the start")
	}
	// Read compares this with where it is: who seeks to the end and back to
	// learn the size, as http.ServeContent does, loses no open stream.
	r.off = offset
	return offset, nil
}

// Complete waits until the flight has ended and returns its error, without
// reading a byte. Where the reader's context ends first, a download that nobody
// else wants is given up. The reader cannot be used any more.
func (r *Reader) Complete() error {
	var err error
	select {
	case <-r.flight.done:
		err = r.flight.err
	case <-r.ctx.Done():
		err = context.Cause(r.ctx)
	}
	r.drop()
	r.closed = true
	r.flight.flights.opts.Metrics.readerClosed()
	if r.flight.release() {
		r.flight.Abandon()
	}
	return err
}

// Close gives up the reader's hold on the flight.
func (r *Reader) Close() error {
	if r.closed {
		return spool.ErrClosed
	}
	r.drop()
	r.closed = true
	r.flight.flights.opts.Metrics.readerClosed()
	if idle := r.flight.flights.opts.Idle; r.flight.release() && idle != nil {
		idle(r.flight)
	}
	return nil
}

// ahead reports whether the reader's offset is too far ahead to wait for.
func (r *Reader) ahead() bool {
	_, written := r.flight.progress()
	return r.off > written+reach
}

// recoverable reports whether err, the flight's failure, is one of the store
// or of another repository's upstream, so that this reader can go on by itself.
func (r *Reader) recoverable(err error) bool {
	if r.ctx.Err() != nil {
		return false
	}
	var store storeError
	return errors.As(err, &store) ||
		!errors.Is(err, storage.ErrCorrupt) && r.flight.src.Repository != r.src.Repository
}

// awaitReady waits until the flight knows the content's size, or has ended.
func (r *Reader) awaitReady() error {
	select {
	case <-r.flight.ready:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// choose opens what to read at the reader's offset.
func (r *Reader) choose() error {
	s, written := r.flight.progress()
	if s == nil && r.off <= reach {
		// A spool is a moment away, or the flight's failure.
		if err := r.awaitReady(); err != nil {
			return err
		}
		s, written = r.flight.progress()
	}
	failed := r.flight.failure()
	switch {
	case r.off > written && (failed != nil || r.off > written+reach):
		return r.openWindow()
	case failed != nil && r.off == written && r.recoverable(failed):
		return r.openRest()
	case s == nil, failed != nil && r.off < written && r.off >= s.Readable():
		return failed
	}
	follow, err := s.NewReader(r.ctx)
	if err != nil {
		return err
	}
	if _, err := follow.Seek(r.off, io.SeekStart); err != nil {
		return err
	}
	r.current, r.follows, r.at = follow, true, r.off
	return nil
}

// openWindow asks the source for the next stretch of a range.
func (r *Reader) openWindow() error {
	length := int64(window)
	if r.end > r.off {
		length = min(length, r.end-r.off)
	}
	stream, err := r.src.Open(r.ctx, r.off, length)
	if err != nil {
		return err
	}
	if stream.Size >= 0 {
		r.size = stream.Size
		length = min(length, r.size-r.off)
	}
	r.current, r.at, r.until = stream, r.off, r.off+length
	return nil
}

// openRest continues straight from the source where the flight stopped, with
// the hash of what came before.
func (r *Reader) openRest() error {
	cloner, ok := r.flight.hash.(hash.Cloner)
	if !ok {
		return fmt.Errorf("storage: cannot continue %s from upstream: its hash cannot be copied", r.flight.digest)
	}
	h, err := cloner.Clone()
	if err != nil {
		return err
	}
	stream, err := r.src.Open(r.ctx, r.off, -1)
	if err != nil {
		return err
	}
	if stream.Size >= 0 {
		r.size = stream.Size
	}
	r.current, r.at = &verifier{stream: stream, hash: h, want: r.flight.digest}, r.off
	return nil
}

// drop closes what is being read, so that the next Read chooses anew.
func (r *Reader) drop() {
	if r.current != nil {
		r.current.Close()
	}
	r.current, r.follows, r.until = nil, false, -1
}
