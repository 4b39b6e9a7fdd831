package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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

// errCutShort ends a stream in front of bytes that are there, or on their way.
var errCutShort = errors.New("storage: the next bytes are there")

// errElsewhere marks corrupt bytes that another upstream may have right.
var errElsewhere = fmt.Errorf("%w; another upstream may be faster", storage.ErrCorrupt)

// createSpool creates the spool, before any reader looks for it.
func (d *Download) createSpool() (*spool.Spool, error) {
	s, err := d.group.opts.Spools.Create(d.Namespace(), -1)
	if err != nil {
		return nil, storeError{err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spool = s
	return s, nil
}

// fetchAll fetches until the content is complete and stored. It pauses without
// holders, and starts again after a source delivered other bytes.
func (d *Download) fetchAll(s *spool.Spool) error {
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
		case errors.Is(err, errElsewhere) && d.reset(s):
		default:
			return err
		}
	}
}

// reset empties the spool after wrong bytes. What brings parts meanwhile ends first, and no
// more parts are fetched: the source may have lied in one of them.
func (d *Download) reset(s *spool.Spool) bool {
	d.endParts(false)
	if !s.Reset() {
		return false
	}
	d.sum.reset()
	d.forgetLent()
	d.forgetParts()
	return true
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
	d.has(slot)
	defer d.has(nil)
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

// has notes the place that the download has; nil: none.
func (d *Download) has(slot *lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slot = slot
}

// fetchRest copies the rest of the content, from the origins that are left and then from
// the repository's own source. Each continues where the one before broke off.
func (d *Download) fetchRest(slot *lease, s *spool.Spool) error {
	for {
		stream, err := d.openOrigin(slot.ctx, s)
		if err != nil {
			return err
		}
		if stream == nil {
			break
		}
		before := s.Written()
		err = d.fetchFrom(slot, s, stream, gap{from: before, through: true})
		if err == nil {
			return d.verify(s)
		}
		if !d.goesOn(slot, err) {
			return err
		}
		d.brokeOff(stream, s.Written()-before)
	}
	return d.fetchOwn(slot, s)
}

// fetchOwn copies the missing bytes from the repository's own source: the gaps between the
// parts, one after the other. Most blobs have one gap, which is all of them.
func (d *Download) fetchOwn(slot *lease, s *spool.Spool) error {
	for {
		arrival, changed := s.Arrival(), d.partsChanged()
		if err := d.catchUp(s); err != nil {
			return err
		}
		d.recruit(slot, s, span{})
		gap, state := d.nextGap(s)
		switch state {
		case allThere:
			return d.verify(s)
		case onTheirWay:
			if err := d.awaitParts(slot, s, arrival, changed); err != nil {
				return err
			}
			continue
		}
		toEnd, err := d.fetchGap(slot, s, gap)
		if err != nil {
			return err
		}
		end := s.Covered(gap.from)
		switch {
		case !toEnd:
		case end == s.Written(): // the digest shows whether it is the end of the content
			return d.verify(s)
		case s.Size() < 0: // parts bring the bytes before it
			if err := d.announce(s, end); err != nil {
				return err
			}
		case end < s.Size():
			return io.ErrUnexpectedEOF
		}
	}
}

// fetchGap copies a gap from the repository's own source. It reports whether the stream went
// to the end of the content, and came to its own.
func (d *Download) fetchGap(slot *lease, s *spool.Spool, gap gap) (toEnd bool, err error) {
	ctx := oci.WithAssembly(slot.ctx, d.assembly())
	if s.Written() > 0 {
		ctx = oci.WithContinuation(ctx) // after a pause, which a rate limit must not turn into an end
	}
	length := int64(-1)
	if gap.bounded {
		length = gap.to - gap.from
		ctx = oci.WithPart(ctx)
	}
	stream, err := d.src.Open(ctx, gap.from, length)
	if gap.bounded && errors.Is(err, oci.ErrNoRange) {
		d.wholeOnly()
		return false, nil // the next gap is the whole rest
	}
	if err != nil {
		return false, err
	}
	d.opened = true
	// Its upstream knows the content, and the origin had another one.
	if size := s.Size(); len(d.lent) > 0 && stream.Size >= 0 && size >= 0 && stream.Size != size {
		defer stream.Close()
		return false, d.reject(fmt.Errorf("%d bytes instead of %d", size, stream.Size))
	}
	d.contributes(stream)
	err = d.fetchFrom(slot, s, stream, gap)
	if errors.Is(err, errCutShort) {
		return false, nil
	}
	return err == nil && !gap.bounded, err
}

// fetchFrom copies a gap from a stream of it.
func (d *Download) fetchFrom(slot *lease, s *spool.Spool, stream *Stream, g gap) error {
	defer stream.Close()
	d.mu.Lock()
	// One stream without proof is enough: its bytes are in the content.
	d.unproven = d.unproven || !stream.Proves
	d.origin, d.peer = stream.Origin, stream.Peer
	d.mu.Unlock()
	// A size that cannot fit is refused now, before any content goes for it.
	if stream.Size >= 0 {
		if err := d.announce(s, stream.Size); err != nil {
			return err
		}
	}
	d.markReady()
	return d.copy(slot, s, stream, g)
}

// announce sets the size of the content. An upstream that gives another one than before delivers
// other content: clients may have been told the first one.
func (d *Download) announce(s *spool.Spool, size int64) error {
	switch err := s.Announce(size); {
	case errors.Is(err, spool.ErrSize):
		return d.reject(err)
	case err != nil:
		return storeError{err}
	}
	return nil
}

func (d *Download) awaitSlot() (*lease, error) {
	d.enter(waiting)
	d.group.opts.Metrics.downloadWaits(1)
	defer d.group.opts.Metrics.downloadWaits(-1)
	if l, err := d.awaitSpare(); l != nil || err != nil {
		return l, err
	}
	return d.group.slots.acquire(d.ctx, d.src.Repository.Namespace)
}

// copy copies the stream of a gap. It returns errCutShort where bytes follow that are there, or
// on their way.
func (d *Download) copy(slot *lease, s *spool.Spool, stream *Stream, g gap) error {
	pooled := d.group.buffers.Get().(*[copyBuffer]byte)
	defer d.group.buffers.Put(pooled)
	buf := pooled[:]
	for at := g.from; !g.bounded || at < g.to; {
		n, readErr := stream.Read(buf[:d.team.lane(at, g)])
		if n > 0 {
			written, own, err := s.Put(buf[:n], at)
			slot.bytes.Add(int64(written))
			if failed := d.hash(s, buf[:written], at, own); failed != nil {
				return failed
			}
			at += int64(written)
			switch {
			// More bytes than the source announced: they cannot match the digest.
			case errors.Is(err, spool.ErrSize):
				return d.reject(err)
			case err != nil:
				return storeError{err}
			}
		}
		if readErr == io.EOF {
			if g.bounded && at < min(g.to, sizeOr(s, g.to)) {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if readErr != nil {
			return readErr
		}
		if !d.attended(unattendedGrace) {
			return errUnattended
		}
		d.teamwork(slot, s, at, g)
		if d.obstructed(s, at, g) || d.deserted(s, at, g) {
			return errCutShort
		}
	}
	return nil
}

// sizeOr returns the size of a blob, or n if it is not known.
func sizeOr(s *spool.Spool, n int64) int64 {
	if size := s.Size(); size >= 0 {
		return size
	}
	return n
}

// hash hashes bytes that were written at an offset, and those behind them that are there
// already. Bytes before the watermark's hash, or not written by the caller, are read back:
// the hash is that of the file.
func (d *Download) hash(s *spool.Spool, p []byte, at int64, own bool) error {
	if own && at == d.sum.written {
		d.sum.write(p)
	}
	return d.catchUp(s)
}

// catchUp hashes the bytes before the watermark that are not hashed yet.
func (d *Download) catchUp(s *spool.Spool) error {
	if d.sum.written == s.Written() { // the bytes came in order
		return nil
	}
	buf := d.group.buffers.Get().(*[copyBuffer]byte)
	defer d.group.buffers.Put(buf)
	for d.sum.written < s.Written() {
		n, err := s.ReadBack(buf[:min(copyBuffer, s.Written()-d.sum.written)], d.sum.written)
		if err != nil {
			return storeError{err}
		}
		d.sum.write(buf[:n])
	}
	return nil
}

// hashRest hashes the bytes that have come, after the download has failed: its readers go on behind that.
// If it cannot be read back, none does.
func (d *Download) hashRest() {
	if s := d.view().spool; s != nil {
		_ = d.catchUp(s)
	}
}

// verify compares the digest of the bytes that came, and releases the withheld
// tail to the readers.
func (d *Download) verify(s *spool.Spool) error {
	// The last helper may have filled its hole since the goroutine looked.
	if err := d.catchUp(s); err != nil {
		return err
	}
	if err := d.sum.verify(); err != nil {
		return d.reject(err)
	}
	// Before the readers learn of it: the first may leave at once, and must not
	// leave an unattended download behind.
	d.enter(committing)
	if err := s.Complete(); err != nil {
		return d.reject(err)
	}
	return nil
}

// reject blames the source for bytes that do not match the digest, in each stream that brought
// some. If bytes of an origin are among them, that is blamed: a store that others write to is
// the likelier liar.
func (d *Download) reject(why error) error {
	if len(d.lent) > 0 {
		return d.rejectLent(why)
	}
	kind := storage.ErrCorrupt
	var from []string
	for _, stream := range d.contributors() {
		if stream.Reject != nil && stream.Reject() {
			kind = errElsewhere
		}
		if !slices.Contains(from, stream.Origin) {
			from = append(from, stream.Origin)
		}
	}
	hosts := strings.Join(from, ", ")
	d.group.opts.Logger.Warn("an upstream delivered bytes that do not match their digest. Nothing was stored",
		"upstream", hosts, "repository", d.src.Repository.String(), "digest", d.digest, "error", why)
	return fmt.Errorf("%w: %s from %s: %w", kind, d.digest, hosts, why)
}

// commit stores a complete spool, unless its content was taken out of the cache. If the store
// fails, the content is not cached; readers are not affected.
func (d *Download) commit(s *spool.Spool) {
	if d.isForgotten() {
		return
	}
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
