package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// copyBuffer is how many bytes a download moves at a time: large enough
	// that system calls cost little, small enough for hundreds of downloads.
	copyBuffer = 64 << 10
	// unattendedGrace is how long a download without holders keeps its upstream
	// connection. A client that reconnects after a cut comes within it.
	unattendedGrace = time.Second
)

// errUnattended ends a fetch that nothing holds.
var errUnattended = errors.New("storage: the download has no readers now")

// errElsewhere marks corrupt bytes that another upstream may have right.
var errElsewhere = fmt.Errorf("%w, another upstream may do better", storage.ErrCorrupt)

// fetchAll fetches until the content is complete and stored. It pauses without
// holders, and starts anew after a source delivered other bytes.
func (d *Download) fetchAll() error {
	s, err := d.group.opts.Spools.Create(d.Namespace(), -1)
	if err != nil {
		return storeError{err}
	}
	d.mu.Lock()
	d.spool = s
	d.mu.Unlock()
	d.origins = d.usable()
	for {
		err := d.fetch(s)
		if err != nil {
			d.callEndings() // other mirrors need not wait for this one
		}
		switch {
		case err == nil:
			d.commit(s)
			return nil
		case errors.Is(err, errUnattended):
			if err := d.pause(); err != nil {
				return err
			}
		case errors.Is(err, errYielded):
			d.span.AddEvent("waits: another repository block had its turn")
			d.group.opts.Metrics.downloadYielded()
		// Reset fails once a reader has seen a byte, which cannot be taken back.
		case errors.Is(err, errElsewhere) && s.Reset():
			d.sum.reset()
			d.forgetLent()
		default:
			return err
		}
	}
}

// pause waits for a holder.
func (d *Download) pause() error {
	d.enter(paused)
	d.span.AddEvent("paused: it has no readers")
	if !d.attended(0) {
		return context.Cause(d.ctx)
	}
	d.span.AddEvent("resumed")
	return nil
}

// fetch takes a slot and copies the rest of the content into the spool.
func (d *Download) fetch(s *spool.Spool) error {
	slot, err := d.awaitSlot()
	if err != nil {
		return err
	}
	defer slot.release()
	slot.bind(d.ctx)
	defer d.watchSpeed(slot)()
	d.enter(copying)
	err = d.fetchRest(slot, s)
	var store storeError
	// A fetch that has to end fails with whatever was under way.
	cause := context.Cause(slot.ctx)
	if err == nil || errors.As(err, &store) || errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	if isTooSlow(cause) || slot.yielded() {
		return cause
	}
	return err
}

// fetchRest copies the rest of the content, from the origins that are left and then from
// the repository's own source. Each continues where the one before broke off.
func (d *Download) fetchRest(slot *lease, s *spool.Spool) error {
	ctx := slot.ctx
	if s.Written() > 0 {
		ctx = oci.WithContinuation(ctx) // after a pause, which a rate limit must not turn into an end
	}
	for {
		stream, err := d.openOrigin(ctx, s)
		if err != nil {
			return err
		}
		if stream == nil {
			break
		}
		before := s.Written()
		err = d.fetchFrom(slot, s, stream)
		if err == nil || !d.goesOn(slot, err) {
			return err
		}
		d.brokeOff(stream, s.Written()-before)
	}
	stream, err := d.src.Open(ctx, s.Written(), -1)
	if err != nil {
		return err
	}
	// Its upstream knows the content, and the origin had another one.
	if size := s.Size(); len(d.lent) > 0 && stream.Size >= 0 && size >= 0 && stream.Size != size {
		defer stream.Close()
		return d.reject(stream, fmt.Errorf("%d bytes in place of %d", size, stream.Size))
	}
	return d.fetchFrom(slot, s, stream)
}

// fetchFrom copies from a stream and verifies the content at its end.
func (d *Download) fetchFrom(slot *lease, s *spool.Spool, stream *Stream) error {
	defer stream.Close()
	d.mu.Lock()
	// One stream without proof is enough: its bytes are in the content.
	d.unproven = d.unproven || !stream.Proves
	d.origin, d.peer = stream.Origin, stream.Peer
	d.mu.Unlock()
	// A size that cannot fit is refused now, before any content goes for it.
	if stream.Size >= 0 {
		if err := s.Announce(stream.Size); err != nil {
			return storeError{err}
		}
	}
	d.markReady()
	if err := d.copy(slot, s, stream); err != nil {
		return err
	}
	return d.verify(s, stream)
}

func (d *Download) awaitSlot() (*lease, error) {
	d.enter(waiting)
	d.group.opts.Metrics.downloadWaits(1)
	defer d.group.opts.Metrics.downloadWaits(-1)
	return d.group.slots.acquire(d.ctx, d.src.Repository.Namespace)
}

func (d *Download) copy(slot *lease, s *spool.Spool, stream *Stream) error {
	pooled := d.group.buffers.Get().(*[copyBuffer]byte)
	defer d.group.buffers.Put(pooled)
	buf := pooled[:]
	for {
		n, readErr := stream.Read(buf)
		if n > 0 {
			written, err := s.Write(buf[:n])
			d.sum.write(buf[:written])
			slot.bytes.Add(int64(written))
			switch {
			// More bytes than the source announced: they cannot match the digest.
			case errors.Is(err, spool.ErrSize):
				return d.reject(stream, err)
			case err != nil:
				return storeError{err}
			}
		}
		if readErr == io.EOF { // the digest tells whether it is the end of the content
			return nil
		}
		if readErr != nil {
			return readErr
		}
		if !d.attended(unattendedGrace) {
			return errUnattended
		}
	}
}

// verify compares the digest of the bytes that came, and releases the withheld
// tail to the readers.
func (d *Download) verify(s *spool.Spool, stream *Stream) error {
	if err := d.sum.verify(); err != nil {
		return d.reject(stream, err)
	}
	// Before the readers learn of it: the first may leave at once, and must not
	// leave an unattended download behind.
	d.enter(committing)
	if err := s.Complete(); err != nil {
		return d.reject(stream, err)
	}
	return nil
}

// reject blames the source for bytes that do not match the digest. If bytes of an origin
// are among them, that is blamed: a store that others write to is the likelier liar.
func (d *Download) reject(stream *Stream, why error) error {
	if len(d.lent) > 0 {
		return d.rejectLent(why)
	}
	kind := storage.ErrCorrupt
	if stream.Reject != nil && stream.Reject() {
		kind = errElsewhere
	}
	d.group.opts.Logger.Warn("an upstream delivered bytes that do not match their digest. Nothing was stored",
		"upstream", stream.Origin, "repository", d.src.Repository.String(), "digest", d.digest, "error", why)
	return fmt.Errorf("%w: %s from %s: %w", kind, d.digest, stream.Origin, why)
}

// commit stores a complete spool. If the store fails, the content is not cached;
// readers are not affected.
func (d *Download) commit(s *spool.Spool) {
	// Before the commit, so that no lookup finds the content without its records.
	if d.src.Verified != nil {
		d.src.Verified(storage.Info{Digest: d.digest, Size: s.Size()}, !d.isUnproven())
	}
	if err := d.group.opts.Store.Commit(d.ctx, d.digest, s); err != nil {
		d.group.opts.Health.Failed(err, "digest", d.digest)
		d.span.RecordError(err)
		return
	}
	d.stored = true
	d.group.opts.Health.Succeeded()
	d.span.AddEvent("stored")
}
