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
	if len(d.group.opts.Origins) == 0 || !d.src.borrows(d.ctx) {
		return nil
	}
	return d.group.opts.Origins
}

// openOrigin opens the content at the end of the spool, at the first origin that has it. It
// returns no stream if none has, and an error if the fetch has to end.
func (d *Download) openOrigin(ctx context.Context, s *spool.Spool) (*Stream, error) {
	for ; len(d.origins) > 0; d.origins = d.origins[1:] {
		stream, err := d.origins[0].Open(ctx, d.digest, s.Written())
		switch {
		case ctx.Err() != nil:
			if err == nil {
				stream.Close()
			}
			return nil, context.Cause(ctx)
		case err != nil:
			if !errors.Is(err, storage.ErrNotExist) {
				d.group.opts.Logger.Debug("a download goes on at its next source", "digest", d.digest, "error", err)
			}
			continue
		case stream.Size != wanted(d.src.Size, s.Size(), stream.Size):
			// It is cut, or that of another program. The record or an earlier source knows better.
			stream.Close()
			if stream.Reject != nil {
				stream.Reject()
			}
			continue
		}
		// A size that cannot fit may be a lie, and the repository's own source decides.
		if err := s.Announce(stream.Size); err != nil {
			stream.Close()
			continue
		}
		if stream.Reject != nil {
			d.lent = append(d.lent, stream.Reject)
		}
		return stream, nil
	}
	return nil, nil
}

// wanted returns the size that a content must have: that of its record, that of the bytes
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
	d.group.opts.Logger.Debug("a download goes on at its next source", "digest", d.digest, "error", err)
	d.span.AddEvent("goes on at the next source")
	return true
}

// rejectLent makes the origins take out the content. If no reader has seen a byte, the
// download starts over without them.
func (d *Download) rejectLent(why error) error {
	for _, reject := range d.lent {
		reject()
	}
	d.group.opts.Logger.Warn("a shared store delivered bytes that do not match their digest. They are removed from it, and nothing was stored",
		"origin", d.view().origin, "repository", d.src.Repository.String(), "digest", d.digest, "error", why)
	return fmt.Errorf("%w: %s from %s: %w", errElsewhere, d.digest, d.view().origin, why)
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
