package download

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Reader reads the content of a download: an io.ReadSeekCloser for one
// goroutine, whose waits end with the context it was opened with.
//
// It follows the download's spool. It turns to its own source for a range far
// ahead of the download, which goes on undisturbed, and when the download fails
// for a reason that does not concern this reader: the store failed, or the
// upstream of another repository did. The method choose has the cases.
type Reader struct {
	ctx      context.Context
	download *Download
	src      Source
	joined   bool
	off      int64
	end      int64 // exclusive end of the requested range; -1 if open-ended
	size     int64 // -1 while unknown
	begun    bool  // the client has bytes
	closed   bool
	inOrder  bool // see Sequential
	alone    bool // bytes far ahead come from streams of its own
	patient  bool // bytes far ahead come with the download

	possession possession
	refused    *refusal // the end of the reader's right to the download's bytes

	current   io.ReadCloser // nil before the next choice
	at        int64         // the offset that current reads at
	follows   bool          // current is the spool
	windowEnd int64         // -1 if current is not a window
}

func newReader(ctx context.Context, d *Download, src Source, joined bool) *Reader {
	d.group.opts.Metrics.readerOpened()
	d.attend(1)
	return &Reader{ctx: ctx, download: d, src: src, joined: joined, end: -1, size: -1, windowEnd: -1}
}

// Joined reports whether the download was running before this reader came.
func (r *Reader) Joined() bool { return r.joined }

// Repository returns the repository whose source the download was started from.
func (r *Reader) Repository() storage.RepoID { return r.download.src.Repository }

// Origin returns the host that delivers the content, for logs and error
// messages; "" while none does.
func (r *Reader) Origin() string { return r.download.view().origin }

// FromPeer reports whether another mirror of the same fleet delivers the content.
func (r *Reader) FromPeer() bool { return r.download.view().peer }

// Stored reports whether, as far as is known now, the content is on its way into
// the store.
func (r *Reader) Stored() bool { return r.download.view().err == nil }

// Wait blocks until the reader's first bytes, from start on, are at hand, so
// that an earlier failure can still be answered as an error. The range ends
// before end; -1 is the end of the content. Wait returns the content's size, or
// -1 if the source does not say. A known size may be told to a client: a source with another
// one makes the download fail.
func (r *Reader) Wait(start, end int64) (int64, error) {
	r.off, r.end = start, end
	if locate(r.off, r.download.view()) == far {
		// A range far ahead is answered at once, however slow the download is.
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
	v := r.download.view()
	if v.spool != nil {
		// Bytes further ahead need not be near, and the status is sent without them.
		if start < reach {
			if err := v.spool.Await(r.ctx); err != nil && !r.recoverable(err) {
				return 0, err
			}
		}
		r.size = v.spool.Promise()
		// A refusal must become an answer of its own, too.
		if err := r.admit(0); err != nil {
			if !r.recoverable(err) {
				return 0, err
			}
			if err := r.choose(); err != nil {
				return 0, err
			}
		}
	}
	// The download failed before its source gave the size: the reader's own
	// source may give it.
	if r.size < 0 && r.download.view().err != nil {
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
		if r.at != r.off { // after a Seek
			if err := r.move(); err != nil {
				return 0, err
			}
		}
		if r.current == nil {
			if err := r.choose(); err != nil {
				return 0, err
			}
		}
		n, err := r.current.Read(p)
		if n > 0 && r.follows {
			if refused := r.admit(r.off + int64(n)); refused != nil {
				n, err = 0, refused
			}
		}
		r.off += int64(n)
		r.at = r.off
		switch {
		case n > 0:
			r.begun = true
			return n, nil
		case err == io.EOF && r.windowEnd >= 0 && r.off >= r.windowEnd:
			r.drop() // the download may have caught up with the window's end
		case r.turns(err):
			r.drop()
		// A source's clean end before the known size is a cut connection.
		case err == io.EOF && r.size >= 0 && r.off < r.size:
			return 0, io.ErrUnexpectedEOF
		// The end of the content, which no failure of the download follows.
		case err == io.EOF:
			return 0, io.EOF
		case err != nil && r.follows && r.recoverable(err):
			r.drop() // the reader goes on with its own source
		case err != nil:
			return 0, err
		}
	}
}

// Stretch waits for bytes of the download and returns the next ones, at most limit or, if
// that is -1, any number, as a part of the download's file: the kernel can send them. The
// caller reports by Advance how many it has used, and no longer uses the part. Stretch returns
// nil if the next bytes have to be Read, which also returns the errors: they are the first
// ones, or the withheld tail, or come from the reader's own source.
func (r *Reader) Stretch(limit int64) *io.LimitedReader {
	if r.closed || !r.follows || r.at != r.off {
		return nil
	}
	part := r.current.(*spool.Reader).Stretch(stretchLimit(r.off, r.size, limit))
	if part == nil || r.admit(r.off+part.N) != nil {
		return nil
	}
	return part
}

// stretchLimit returns how long a stretch at an offset may be: limit bytes or, if that is -1, any
// number, but none of the withheld tail of a blob whose size is known.
func stretchLimit(off, size, limit int64) int64 {
	if limit < 0 {
		limit = math.MaxInt64 - off
	}
	if size >= 0 {
		limit = min(limit, size-spool.TailHold-off)
	}
	return limit
}

// Advance moves the offset past n bytes of a Stretch.
func (r *Reader) Advance(n int64) {
	r.current.(*spool.Reader).Advance(n)
	r.off += n
	r.at = r.off
	r.begun = r.begun || n > 0
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
	// http.ServeContent seeks to the end and back to learn the size: the open
	// stream stays, and Read compares the offsets.
	r.off = offset
	return offset, nil
}

// Sequential makes the reader read one stream only, and skip the bytes that it does not
// need: that of the download or, if that has failed, one of its own source. The reader
// must not seek backwards once it has read. It suits several ranges of one blob, each of
// which could cost a request upstream.
func (r *Reader) Sequential() { r.inOrder = true }

// Complete waits until the download has ended and returns its error, without
// reading a byte. If the reader's context ends first, a download without other
// holders is abandoned. The reader cannot be used any more.
func (r *Reader) Complete() error {
	r.download.attend(-1) // no client reads
	err := r.download.await(r.ctx)
	r.download.attend(1)
	r.leave((*Download).Abandon)
	return err
}

// Close gives up the reader's hold on the download.
func (r *Reader) Close() error {
	if r.closed {
		return spool.ErrClosed
	}
	r.leave(r.download.group.opts.OnUnattended)
	return nil
}

// leave ends the use of the reader. It passes a download that is unfinished and
// has no other holder to unattended, if that is set.
func (r *Reader) leave(unattended func(*Download)) {
	r.drop()
	r.closed = true
	r.download.group.opts.Metrics.readerClosed()
	r.download.attend(-1)
	r.download.leave(unattended)
}

// recoverable reports whether the reader can go on by itself after err, the
// download's failure: the store failed, or another repository's upstream did.
// Corrupt bytes that have been read already cannot be taken back.
func (r *Reader) recoverable(err error) bool {
	if r.ctx.Err() != nil || r.refused != nil { // its client has left, or may not have the content
		return false
	}
	var store storeError
	return errors.As(err, &store) ||
		r.independent() && !(r.begun && errors.Is(err, storage.ErrCorrupt))
}

// awaitReady waits until the download knows the content's size, or has ended.
func (r *Reader) awaitReady() error {
	select {
	case <-r.download.ready:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// move takes the reader to its offset, after a Seek.
func (r *Reader) move() error {
	if r.inOrder && r.current != nil && !r.follows && r.off > r.at {
		n, err := io.CopyN(io.Discard, r.current, r.off-r.at)
		r.at += n
		return err
	}
	r.drop()
	return nil
}

// drop closes the current stream, so that the next Read chooses again.
func (r *Reader) drop() {
	if r.current != nil {
		r.current.Close()
	}
	r.current, r.follows, r.windowEnd = nil, false, -1
}
