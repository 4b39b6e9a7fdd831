package download

import (
	"context"
	"errors"
	"io"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// errAlone makes a reader go on with a stream of its own.
var errAlone = errors.New("storage: the reader reads by itself")

// errPatience makes a reader wait for the download, since its source sends no parts.
var errPatience = errors.New("storage: the reader waits for the download")

// ahead reads a range far ahead of the watermark from the spool, and has missing bytes brought
// there as parts. The bytes are as little verified as those of a stream of the reader's own:
// only readers that have the same source read them here.
type ahead struct {
	reader *Reader
	spool  *spool.Spool
	hold   *spool.Reader // keeps the file open
	off    int64
	part   *part
}

// openAhead reads on ahead of the download, and waits for the first byte.
func (r *Reader) openAhead(v view) error {
	hold, err := v.spool.NewReader(r.ctx)
	if err != nil {
		return err
	}
	a := &ahead{reader: r, spool: v.spool, hold: hold, off: r.off}
	if err := a.await(); err != nil {
		hold.Close()
		return err
	}
	if size := v.spool.Size(); size >= 0 {
		r.size = size
	}
	r.current, r.at = a, r.off
	return nil
}

func (a *ahead) Read(p []byte) (int, error) {
	if err := a.await(); err != nil {
		return 0, err
	}
	n, err := a.spool.ReadBack(p, a.off)
	if err != nil { // the spool was emptied meanwhile, or the disk is broken
		return 0, errAlone
	}
	a.off += int64(n)
	return n, nil
}

// await waits for the byte at the offset.
func (a *ahead) await() error {
	d := a.reader.download
	for {
		arrival, changed := a.spool.Arrival(), d.partsChanged()
		if a.spool.Covered(a.off) > a.off {
			return nil
		}
		if v := d.view(); v.err != nil || v.spool == nil || locate(a.off, v) != far {
			return errCaughtUp
		}
		if err := a.next(d); err != nil {
			return err
		}
		if a.part == nil {
			continue // the byte has come meanwhile
		}
		select {
		case <-arrival:
		case <-changed:
		case <-a.part.done:
		case <-a.reader.ctx.Done():
			return context.Cause(a.reader.ctx)
		}
	}
}

// next makes sure that a part brings the byte, unless it is there.
func (a *ahead) next(d *Download) error {
	if a.part != nil {
		select {
		case <-a.part.done:
		default:
			return nil
		}
		// A segment fails for the download. The error of the reader's own part says more.
		if err := a.failure(a.part.err); err != nil && !a.part.segment {
			return err
		}
	}
	var err error
	a.part, err = d.demand(a.reader, a.spool, a.off)
	return err
}

// failure returns the end that the end of a part is for the reader; nil if there may be another
// part.
func (a *ahead) failure(err error) error {
	var store storeError
	switch {
	case err == nil, errors.Is(err, errCaughtUp), errors.Is(err, errYielded), errors.Is(err, errUnattended):
		return nil
	case errors.Is(err, oci.ErrNoRange):
		return errPatience
	case errors.As(err, &store), errors.Is(err, errPartSize), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, storage.ErrCorrupt):
		return errAlone
	// The download was abandoned. Its end follows.
	case a.reader.download.ctx.Err() != nil:
		return errAlone
	default:
		return err
	}
}

func (a *ahead) Close() error { return a.hold.Close() }
