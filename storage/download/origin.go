package download

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// usable returns the origins that may be read for the download: those whose bytes its
// repository could use if they were stored here.
func (d *Download) usable() []Origin {
	if d.src.Own || len(d.group.opts.Origins) == 0 || !d.src.borrows(d.ctx) {
		return nil
	}
	return d.group.opts.Origins
}

// openOrigin opens the content at the end of the spool, at the first origin that has it. It
// returns no stream if none has, and an error if the fetch has to end.
func (d *Download) openOrigin(ctx context.Context, s *spool.Spool) (*Stream, error) {
	for ; len(d.origins) > 0; d.origins = d.origins[1:] {
		stream, err := d.origins[0].Open(ctx, Want{Digest: d.digest, Block: d.Namespace(), Offset: s.Written(), OnEnd: d.onEnd})
		switch {
		case errors.Is(err, ErrTurn) && ctx.Err() == nil:
			return nil, nil // the origin stays, for the time after an interruption
		case ctx.Err() != nil:
			if err == nil {
				stream.Close()
			}
			return nil, context.Cause(ctx)
		case err != nil:
			if !errors.Is(err, storage.ErrNotExist) {
				d.group.opts.Logger.Debug("a download continues from its next source", "digest", d.digest, "error", err)
			}
			continue
		case stream.Size >= 0 && stream.Size != wanted(d.src.Size, s.Size(), stream.Size):
			// It is cut, or that of another program. The record or an earlier source knows better.
			stream.Close()
			if stream.Reject != nil {
				stream.Reject()
			}
			continue
		}
		// A size that cannot fit may be a lie, and the repository's own source decides. An
		// origin that gives none delivers no more than the record has.
		if size := wanted(d.src.Size, s.Size(), stream.Size); size >= 0 {
			if err := s.Announce(size); err != nil {
				stream.Close()
				continue
			}
		}
		if stream.Reject != nil {
			d.lent = append(d.lent, stream.Reject)
		}
		return stream, nil
	}
	return nil, nil
}

// onEnd registers a function for the end of the attempt that is under way.
func (d *Download) onEnd(ended func(stored bool)) { d.endings = append(d.endings, ended) }

// callEndings calls the functions that are registered, once. The download's goroutine calls it
// when no lock is held.
func (d *Download) callEndings() {
	endings := d.endings
	d.endings = nil
	for _, ended := range endings {
		ended(d.stored)
	}
}

// maxResumes bounds how often an origin that resumes is asked again in one download, after
// streams that delivered little.
const maxResumes = 8

// brokeOff leaves the first origin after a stream of it that ended early, unless it may go
// on.
func (d *Download) brokeOff(stream *Stream, delivered int64) {
	// A long body breaks off at times.
	if delivered >= window {
		return
	}
	if d.resumes++; stream.Resumes && d.resumes <= maxResumes {
		return
	}
	d.origins = d.origins[1:]
}

// wanted returns the size that a blob must have: that of its record, that of the bytes
// that came before, or any.
func wanted(recorded, announced, any int64) int64 {
	switch {
	case recorded > 0:
		return recorded
	case announced >= 0:
		return announced
	default:
		return any
	}
}

// goesOn reports whether the failure of a stream of an origin sends the download to its
// next source. A full store, wrong bytes and the end of the fetch do not.
func (d *Download) goesOn(slot *lease, err error) bool {
	var store storeError
	if slot.ctx.Err() != nil || slot.yielded() || errors.As(err, &store) || errors.Is(err, storage.ErrCorrupt) || errors.Is(err, errUnattended) {
		return false
	}
	d.group.opts.Logger.Debug("a download continues from its next source", "digest", d.digest, "error", err)
	d.span.AddEvent("continues from the next source")
	return true
}

// rejectLent makes the origins take out the content. If no reader has seen a byte, the
// download starts over without them.
func (d *Download) rejectLent(why error) error {
	for _, reject := range d.lent {
		reject()
	}
	d.group.opts.Logger.Warn(d.blame(),
		"origin", d.view().origin, "repository", d.src.Repository.String(), "digest", d.digest, "error", why)
	return fmt.Errorf("%w: %s from %s: %w", errElsewhere, d.digest, d.view().origin, why)
}

// blame returns the message for wrong bytes of origins.
func (d *Download) blame() string {
	if d.view().peer {
		return "another replica delivered bytes that do not match their digest. It is skipped for a while, and nothing was stored"
	}
	return "a shared store delivered bytes that do not match their digest. They are removed from it, and nothing was stored"
}

// forgetLent makes the next fetch start without the origins.
func (d *Download) forgetLent() {
	d.origins, d.lent = nil, nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unproven = false
}

// isUnproven reports whether bytes are in the content that prove no possession.
func (d *Download) isUnproven() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unproven
}
