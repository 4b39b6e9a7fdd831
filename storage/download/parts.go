package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// worthSkipping is the least stretch that a new stream ends in front of, and begins again
	// behind, so that its bytes do not come twice. A request costs about as much as the bytes
	// that come within a round trip.
	worthSkipping = 256 << 10
	// worthCutting is the least stretch in front of which a stream without an end is cut off.
	// The bytes that are under way are lost, and so is the connection.
	worthCutting = 4 << 20
	// maxAhead is how far ahead of the watermark gaps are filled.
	maxAhead = 128 << 20
	// maxStretches bounds the memory for the present bytes of a blob, 16 bytes each. Beyond it
	// the readers of ranges read by themselves.
	maxStretches = 1024
	// stealAfter is how long the download waits for a part without any new byte. Then it
	// fetches the bytes itself.
	stealAfter = 5 * time.Second
)

// errPartSize says that a part is one of a blob of another size.
var errPartSize = errors.New("storage: the part belongs to content of another size")

// part is a stretch of a blob ahead of the watermark that a stream of its own brings into
// the spool, for a reader that asked for it, or as a segment.
//
//	wanted ──► active ──► ended      active: it has a place, and the download skips it
//	    └─────────────────►
//
// The download's mutex guards to, which may come nearer, and active.
type part struct {
	from, to int64 // without to
	active   bool
	segment  bool // the download itself demands it, see team
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed at the end, with
	err      error         // nil: all of it is there
}

// parts are the parts of a download that have not ended, and the streams that contributed so
// far. The download's mutex guards them.
type parts struct {
	running      []*part
	changed      notify.Broadcast // of running
	contributors []*Stream
	assembly     *oci.Assembly
	whole        bool // the source sends no parts, or one of them may have been wrong
	sealed       bool // no more parts
}

// gap is a stretch that is neither there nor on its way. If it is not bounded, it goes to the
// end of the content.
type gap struct {
	from, to int64
	bounded  bool
	through  bool // its stream is not cut off, whatever is there
}

// gapState is how a download goes on.
type gapState uint8

const (
	missing    gapState = iota // there is a gap
	onTheirWay                 // parts bring all that is missing, or the next gap is too far ahead
	allThere
)

// nextGap returns the first gap.
func (d *Download) nextGap(s *spool.Spool) (gap, gapState) {
	written, size := s.Written(), s.Size()
	if size >= 0 && written >= size {
		return gap{}, allThere
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts.whole {
		return gap{from: written}, missing
	}
	from := d.parts.behind(s, written)
	if size >= 0 && from >= size || from-written > maxAhead {
		return gap{}, onTheirWay
	}
	g := gap{from: from, to: d.parts.bound(s, from)}
	// The client that the download began for asks for a range, which is about to become a part.
	if start := d.src.Start; !d.opened && start > from+reach && (d.src.End <= 0 || d.src.End-start >= worthSkipping) && (g.to < 0 || start < g.to) {
		g.to = start
	}
	if end := d.team.share(from, size); end >= 0 && (g.to < 0 || end < g.to) {
		g.to = end
	}
	g.bounded = g.to >= 0 && (size < 0 || g.to < size)
	return g, missing
}

// behind returns the first offset from off on that is neither there nor in an active part.
func (p *parts) behind(s *spool.Spool, off int64) int64 {
	for {
		next := s.Covered(off)
		for _, part := range p.running {
			if part.active && part.from <= next && next < part.to && part.to-part.from >= worthSkipping {
				next = part.to
			}
		}
		if next == off {
			return off
		}
		off = next
	}
}

// bound returns the start of the next bytes behind off that are worth skipping; -1 if there are
// none.
func (p *parts) bound(s *spool.Spool, off int64) int64 {
	bound, _ := s.Ahead(off, worthSkipping)
	for _, part := range p.running {
		if part.from > off && part.to-part.from >= worthSkipping && (bound < 0 || part.from < bound) {
			bound = part.from
		}
	}
	return bound
}

// obstructed reports whether the stream of a gap has come, at an offset, to bytes that are worth
// a new request behind them.
func (d *Download) obstructed(s *spool.Spool, at int64, g gap) bool {
	if g.through {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Segments were refused, so the stream that is open is worth more than bytes that come once.
	if d.parts.whole || d.team.refused && !g.bounded {
		return false
	}
	end := d.parts.behind(s, at)
	if g.bounded {
		end = min(end, g.to)
	}
	return end-at >= worthCutting
}

// awaitParts waits until more bytes are there, or a part has ended.
func (d *Download) awaitParts(slot *lease, s *spool.Spool, arrival, changed <-chan struct{}) error {
	if !d.attended(unattendedGrace) {
		return errUnattended
	}
	timer := time.NewTimer(stealAfter)
	defer timer.Stop()
	select {
	case <-arrival:
	case <-changed:
	case <-timer.C:
		d.steal(s.Written())
	case <-slot.ctx.Done():
		return context.Cause(slot.ctx)
	}
	return nil
}

// steal ends the part at an offset, which then is a gap.
func (d *Download) steal(off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, part := range d.parts.running {
		if part.from <= off && off < part.to {
			part.active = false
			part.cancel(errCaughtUp)
		}
	}
	d.parts.changed.Notify()
}

// demand returns the part that brings the byte at an offset, and nil if the byte is there. It
// starts a part if there is none, for the range of the reader. It returns errAlone if the
// reader has to read by itself.
func (d *Download) demand(r *Reader, s *spool.Spool, off int64) (*part, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// The part of another reader may have ended since the caller looked.
	if s.Covered(off) > off {
		return nil, nil
	}
	if d.parts.sealed || d.parts.whole || d.phase >= committing {
		return nil, errAlone
	}
	to := off + window
	if r.end > off {
		to = min(to, r.end)
	}
	if size := s.Size(); size >= 0 {
		to = min(to, size)
	}
	for _, p := range d.parts.running {
		if p.from <= off && off < p.to {
			// A byte that comes soon is worth the wait.
			if off <= max(p.from, s.Covered(p.from))+window {
				return p, nil
			}
			if !p.segment {
				return nil, errAlone
			}
			p.to = off // the segment ends where the reader begins
		}
		if p.from > off {
			to = min(to, p.from)
		}
	}
	if from, _ := s.Ahead(off, worthSkipping); from >= 0 {
		to = min(to, from)
	}
	if to <= off || s.Stretches()+len(d.parts.running) >= maxStretches {
		return nil, errAlone
	}
	ctx, cancel := context.WithCancelCause(d.ctx)
	if r.begun {
		ctx = oci.WithContinuation(ctx)
	}
	p := &part{from: off, to: to, cancel: cancel, done: make(chan struct{})}
	d.parts.running = append(d.parts.running, p)
	d.parts.changed.Notify()
	src := r.src
	d.working.Go(func() {
		defer cancel(nil)
		p.err = d.fetchPart(ctx, s, src, p)
		d.partEnded(p)
	})
	return p, nil
}

func (d *Download) partEnded(p *part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(p.err, oci.ErrNoRange) && !p.segment {
		d.parts.whole = true
	}
	d.parts.running = slices.DeleteFunc(d.parts.running, func(other *part) bool { return other == p })
	d.parts.changed.Notify()
	close(p.done)
}

// fetchPart takes places, like a reader's own stream, and copies a part into the spool.
func (d *Download) fetchPart(ctx context.Context, s *spool.Spool, src Source, p *part) error {
	share, slot, err := d.partPlaces(ctx, s, p)
	if err != nil {
		return err
	}
	defer share.release()
	defer slot.release()
	ctx = share.bind(slot.bind(ctx).ctx).ctx
	if !d.activate(s, p) {
		return errCaughtUp
	}
	stream, err := src.Open(oci.WithAssembly(oci.WithPart(ctx), d.assembly()), p.from, p.to-p.from)
	if err == nil {
		d.contributes(stream)
		err = d.copyPart(ctx, s, stream, p, func(n int) {
			slot.bytes.Add(int64(n))
			share.bytes.Add(int64(n))
			d.partBytes(n)
		})
		stream.Close()
	}
	// A part that has to end fails with whatever was under way.
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// partPlaces waits for the places of a part, until the download has come near to it.
func (d *Download) partPlaces(ctx context.Context, s *spool.Spool, p *part) (share, slot *lease, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	near := func() bool { return p.from <= s.Written()+reach }
	d.working.Go(func() { lookAround(ctx, near, cancel) })
	if share, err = d.group.streams.acquire(ctx, d.Namespace()); err != nil {
		return nil, nil, err
	}
	if slot, err = d.group.slots.acquire(ctx, d.Namespace()); err != nil {
		share.release()
		return nil, nil, err
	}
	return share, slot, nil
}

// activate makes the download skip a part, unless it has come near to it meanwhile.
func (d *Download) activate(s *spool.Spool, p *part) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p.active = p.from > s.Written()+reach
	d.parts.changed.Notify()
	return p.active
}

// copyPart copies the stream of a part into the spool, and reports how many bytes came.
func (d *Download) copyPart(ctx context.Context, s *spool.Spool, stream *Stream, p *part, came func(n int)) error {
	if err := d.announcePart(s, stream); err != nil {
		return err
	}
	buf := d.group.buffers.Get().(*[copyBuffer]byte)
	defer d.group.buffers.Put(buf)
	for at, end := p.from, d.endOf(s, p); at < end; end = d.endOf(s, p) {
		n, readErr := stream.Read(buf[:min(copyBuffer, end-at)])
		written, err := s.WriteAt(buf[:n], at)
		came(written)
		at += int64(written)
		switch {
		case err != nil:
			return storeError{err}
		case at >= end:
		case readErr == io.EOF:
			return io.ErrUnexpectedEOF
		case readErr != nil:
			return readErr
		case !d.attended(unattendedGrace):
			return errUnattended
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// endOf returns the end of a part, or of the content if that is nearer.
func (d *Download) endOf(s *spool.Spool, p *part) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return min(p.to, sizeOr(s, p.to))
}

// announcePart sets the size of the spool to the size that the source of a part reported.
func (d *Download) announcePart(s *spool.Spool, stream *Stream) error {
	known := s.Size()
	switch {
	case stream.Size < 0:
		return nil
	case known >= 0 && known != stream.Size:
		return fmt.Errorf("%w: %d bytes instead of %d", errPartSize, stream.Size, known)
	case known < 0:
		switch err := s.Announce(stream.Size); {
		case errors.Is(err, spool.ErrSize): // another stream was faster
			return fmt.Errorf("%w: %w", errPartSize, err)
		case err != nil:
			return storeError{err}
		}
	}
	d.markReady()
	return nil
}

// partBytes counts the bytes of parts for the speed of the download, which skips them.
func (d *Download) partBytes(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slot != nil {
		d.slot.bytes.Add(int64(n))
	}
}

// contributes notes a stream of a repository's own upstream, for the case that its bytes turn
// out to be wrong.
func (d *Download) contributes(stream *Stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts.contributors = append(d.parts.contributors, stream)
	d.unproven = d.unproven || !stream.Proves
	if d.origin == "" {
		d.origin = stream.Origin
	}
}

func (d *Download) contributors() []*Stream {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.parts.contributors)
}

// assembly returns the record of the hosts that the content comes from.
func (d *Download) assembly() *oci.Assembly {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts.assembly == nil {
		d.parts.assembly = new(oci.Assembly)
	}
	return d.parts.assembly
}

func (d *Download) partsChanged() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.parts.changed.Wait()
}

// wholeOnly makes the download go on without parts.
func (d *Download) wholeOnly() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts.whole = true
}

// endParts ends all parts, and waits for their end. After a reset of the spool, or for good, no
// more begin.
func (d *Download) endParts(sealed bool) {
	d.mu.Lock()
	d.parts.whole, d.parts.sealed = true, d.parts.sealed || sealed
	for _, p := range d.parts.running {
		p.cancel(errCaughtUp)
	}
	d.mu.Unlock()
	d.working.Wait()
}

// forgetParts makes the next attempt start with new streams alone.
func (d *Download) forgetParts() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts.contributors, d.parts.assembly = nil, nil
}
