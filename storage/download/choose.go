package download

import (
	"errors"
	"io"

	"github.com/weirhq/weir/storage"
)

const (
	// reach is how far ahead of the download a reader may be and still wait
	// for it; beyond, it asks its own source. Within 1 MiB, waiting takes about
	// as long as another request upstream.
	reach = 1 << 20
	// window is how many bytes a reader that is ahead asks for at a time: enough
	// that few requests reach the upstream, few enough that the reader returns
	// to a download that has caught up.
	window = 8 << 20
)

// position is where an offset lies relative to the bytes in the spool.
type position uint8

const (
	readable position = iota // a byte that readers may have
	withheld                 // a byte of the tail, which is not verified yet
	next                     // the byte after the last one
	near                     // at most reach ahead of that
	far                      // further ahead
)

// condition is how the download stands for one reader.
type condition uint8

const (
	alive       condition = iota // it runs, or has succeeded
	replaceable                  // it failed; the reader may go on by itself
	failedForMe                  // it failed, and so does the reader
)

// step is how a reader goes on.
type step uint8

const (
	follow     step = iota // the spool, and wait for its bytes
	openRest               // the own source to the end, and verify the whole
	openWindow             // a stretch of the own source
	giveUp                 // with the download's error
)

// steps is the decision of [Reader.choose].
var steps = [...][3]step{
	//          alive       replaceable failedForMe
	readable: {follow, follow, follow}, // the failure comes after the readable bytes
	withheld: {follow, giveUp, giveUp}, // not verified, so not to be passed on
	next:     {follow, openRest, giveUp},
	near:     {follow, openWindow, openWindow},
	far:      {openWindow, openWindow, openWindow},
}

// locate returns the position of an offset. Without a spool there are no bytes.
func locate(off int64, v view) position {
	switch {
	case off > v.written+reach:
		return far
	case off > v.written:
		return near
	case off == v.written:
		return next
	case off >= v.spool.Readable():
		return withheld
	default:
		return readable
	}
}

// choose opens the stream to read from at the reader's offset.
func (r *Reader) choose() error {
	v := r.download.view()
	if v.spool == nil && r.off <= reach {
		// A spool is a moment away, or the download's failure.
		if err := r.awaitReady(); err != nil {
			return err
		}
		v = r.download.view()
	}
	how := alive
	switch {
	case v.err == nil:
	case r.recoverable(v.err):
		how = replaceable
	default:
		how = failedForMe
	}
	// The readable bytes of a failed download are wrong, or cannot be proven any more.
	if how == replaceable && (errors.Is(v.err, storage.ErrCorrupt) || r.lent() && r.src.Prove != nil && r.possession == unproven) {
		return r.openOwn()
	}
	switch steps[locate(r.off, v)][how] {
	case follow:
		return r.follow(v)
	case openRest:
		return r.openRest()
	case openWindow:
		return r.jump(v, how)
	default:
		return v.err
	}
}

// jump reads bytes that the download has not come to.
func (r *Reader) jump(v view, how condition) error {
	var err error
	switch {
	// A sequential reader comes by and by to the bytes that are far ahead.
	case (r.inOrder || r.patient) && how == alive:
		return r.follow(v)
	case how == alive && v.spool != nil && !r.alone && !r.independent():
		err = r.openAhead(v)
	default:
		err = r.openWindow()
	}
	if r.turns(err) {
		return r.choose()
	}
	return err
}

// turns reports whether the reader has to choose again.
func (r *Reader) turns(err error) bool {
	switch {
	case errors.Is(err, errCaughtUp):
		return true
	case errors.Is(err, errAlone):
		r.alone = true
		return true
	case errors.Is(err, errPatience):
		r.patient = true
		return true
	default:
		return false
	}
}

// follow reads from the spool.
func (r *Reader) follow(v view) error {
	reader, err := v.spool.NewReader(r.ctx)
	if err != nil {
		return err
	}
	if _, err := reader.Seek(r.off, io.SeekStart); err != nil {
		return err
	}
	r.current, r.follows, r.at = reader, true, r.off
	return nil
}

// openWindow asks the reader's source for the next stretch of a range.
func (r *Reader) openWindow() error {
	if r.inOrder { // one stream for all ranges that are left
		return r.openEnd()
	}
	length := int64(window)
	// The upstream need not send bytes behind the client's range.
	if r.end > r.off {
		length = min(length, r.end-r.off)
	}
	stream, err := r.borrow(length)
	if err != nil {
		return err
	}
	if stream.Size >= 0 {
		r.size = stream.Size
		length = min(length, r.size-r.off)
	}
	r.current, r.at, r.windowEnd = stream, r.off, r.off+length
	return nil
}

// openRest continues from the reader's source at the offset where the download
// stopped, with the checksum of the bytes before.
func (r *Reader) openRest() error {
	// The download has ended, so its checksum does not change any more.
	sum, err := r.download.sum.clone()
	if err != nil {
		return err
	}
	if sum.written != r.off { // it could not be read back
		return r.download.view().err
	}
	return r.openVerified(sum)
}

// openOwn reads from the reader's source alone: from its start and verified or, in a
// range, as a window.
func (r *Reader) openOwn() error {
	if r.off > 0 {
		return r.openWindow()
	}
	return r.openVerified(newChecksum(r.download.digest))
}

// openVerified opens the reader's source from its offset to the end. The checksum is that
// of the bytes before.
func (r *Reader) openVerified(sum checksum) error {
	stream, err := r.borrow(-1)
	if err != nil {
		return err
	}
	if stream.Size >= 0 {
		r.size = stream.Size
	}
	r.current, r.at = &verifier{stream: stream, sum: sum}, r.off
	return nil
}

// openEnd asks the reader's source for all bytes from its offset on.
func (r *Reader) openEnd() error {
	stream, err := r.borrow(-1)
	if err != nil {
		return err
	}
	if stream.Size >= 0 {
		r.size = stream.Size
	}
	r.current, r.at = stream, r.off
	return nil
}
