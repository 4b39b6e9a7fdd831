package download

import (
	"context"
	"errors"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// aloneFor is how many bytes the first stream brings before others come to its help. The
	// pace of the second half of them is that of one stream: the first has a slow start.
	aloneFor = 4 << 20
	// worthTeam is the least rest of a blob that is worth more than one stream.
	worthTeam = 16 << 20
	// Segments are an eighth of the content, within these bounds. Each costs a request.
	shortestSegment = 8 << 20
	longestSegment  = 32 << 20
	// lastSegment is the least length of the last segments, which get shorter, so that all
	// streams end at about the same time. At 50 MB/s, a request to an upstream 20 ms away costs
	// a quarter of the time of these bytes.
	lastSegment = 4 << 20
	// trialBytes is how many bytes a team brings before its pace is judged.
	trialBytes = 16 << 20
	// leastGain is how much faster than one stream a team has to be.
	leastGain = 1.15
)

// errSilent ends a segment that brings nothing.
var errSilent = errors.New("storage: the stream of a segment delivers nothing")

// team is the streams that work on a download: that of the download's goroutine, and helpers,
// each of which brings a segment.
//
//	alone ──► formed ──► over     alone: the first bytes; over: no more helpers
//	    └────────────────►
//
// The download's goroutine forms and judges the team. The mutex of the download guards the
// fields of helpers.
type team struct {
	begun  time.Time // when the stream of the goroutine had half of aloneFor
	stream int64     // the offset where that stream began
	half   int64     // its offset at begun
	lead   int64     // a stream without an end leaves the bytes from here on to helpers

	host      string // of all streams
	segmenter oci.Segmenter
	streams   int64   // at most
	length    int64   // of a segment; 0: the team is not formed
	pace      float64 // of one stream, in bytes per second
	beside    int     // places that others had meanwhile
	judged    bool

	helpers int  // that have a segment
	over    bool // no more helpers
	refused bool // the source sends no segments, and a further request may fail too
	trial   time.Time
	slot    *lease // of the goroutine at the start of the trial, which had brought
	before  int64  // that many bytes
}

// teamwork forms and judges the team of a download, and gives segments to helpers. The
// goroutine's own stream of a gap is at an offset.
func (d *Download) teamwork(slot *lease, s *spool.Spool, at int64, g gap) {
	t := &d.team
	if g.through || t.length == 0 && !d.formTeam(s, at, g) {
		return
	}
	own := span{at, g.to}
	if !g.bounded {
		if at >= t.lead {
			t.lead = t.endOf(at, s.Size())
		}
		own.to = t.lead
	}
	d.recruit(slot, s, own)
}

// formTeam forms the team when the first stream has shown its pace, if helpers are welcome.
func (d *Download) formTeam(s *spool.Spool, at int64, g gap) bool {
	t := &d.team
	if t.begun.IsZero() || t.stream != g.from {
		if at-g.from < aloneFor/2 {
			return false
		}
		t.begun, t.stream, t.half = time.Now(), g.from, at
	}
	size := s.Size()
	// Bytes of an origin are in the content: if it is wrong, the origin is to blame. A request
	// that may have come around must not multiply.
	if at-g.from < aloneFor || size-at < worthTeam || len(d.lent) > 0 || d.src.Own || d.spare.Load() {
		return false
	}
	host, segmenter := d.assembly().Segmenter()
	if segmenter == nil {
		return false
	}
	streams := segmenter.Segments()
	if streams < 2 {
		return false
	}
	t.host, t.segmenter, t.streams = host, segmenter, int64(streams)
	t.pace = float64(at-t.half) / max(time.Since(t.begun), time.Microsecond).Seconds()
	t.beside = d.group.slots.taken()
	t.length = min(max(size/8, shortestSegment), longestSegment)
	return true
}

// endOf returns the end of a segment that begins at an offset: the streams of a team share the
// rest if that is less than a segment for each. A short rest belongs to the last one.
func (t *team) endOf(from, size int64) int64 {
	length := min(t.length, max((size-from)/t.streams, lastSegment))
	if size-from < length+lastSegment/2 {
		return size
	}
	return from + length
}

// span is a half-open range of bytes.
type span struct{ from, to int64 }

// recruit gives segments to as many helpers as there may be, as long as there are places that
// no download waits for. The goroutine's own stream brings the bytes of own.
func (d *Download) recruit(slot *lease, s *spool.Spool, own span) {
	if d.team.length == 0 {
		return
	}
	d.judge(slot)
	for slot.ctx.Err() == nil && d.welcome(s, own) {
		place := d.group.slots.acquireSpare(d.Namespace(), &d.group.dispensable)
		if place == nil {
			return
		}
		d.delegate(slot, place, s, own)
	}
}

// welcome reports whether there is a segment for one more helper.
func (d *Download) welcome(s *spool.Spool, own span) bool {
	t := &d.team
	d.mu.Lock()
	ready := !t.over && !d.parts.whole && !d.parts.sealed && d.holders > 0
	helpers := t.helpers
	if ready {
		_, ready = d.vacancy(s, own)
	}
	d.mu.Unlock()
	return ready && helpers < t.segmenter.Segments()-1
}

// delegate gives the first vacant segment to a helper, which has a place.
func (d *Download) delegate(slot, place *lease, s *spool.Spool, own span) {
	d.mu.Lock()
	defer d.mu.Unlock()
	segment, ok := d.vacancy(s, own)
	if !ok { // a reader has just demanded it
		place.release()
		return
	}
	ctx, cancel := context.WithCancelCause(slot.ctx) // a team ends with the stream that leads it
	p := &part{from: segment.from, to: segment.to, active: true, segment: true, cancel: cancel, done: make(chan struct{})}
	d.parts.running = append(d.parts.running, p)
	d.parts.changed.Notify()
	d.team.helpers++
	d.working.Go(func() {
		defer cancel(nil)
		p.err = d.fetchSegment(ctx, place, s, p)
		place.release()
		d.segmentEnded(ctx, p)
	})
}

// vacancy returns the first segment that is neither there nor on its way, if it is near enough
// to the watermark. The caller holds the mutex.
func (d *Download) vacancy(s *spool.Spool, own span) (span, bool) {
	watermark, size := s.Written(), s.Size()
	from := watermark
	for from < size {
		next := s.Covered(from)
		if own.from <= next && next < own.to {
			next = own.to
		}
		for _, p := range d.parts.running {
			if p.from <= next && next < p.to {
				next = p.to
			}
		}
		if next > from {
			from = next
			continue
		}
		to := d.team.endOf(from, size)
		if bound := d.parts.bound(s, from); bound >= 0 {
			to = min(to, bound)
		}
		if own.from > from {
			to = min(to, own.from)
		}
		if to > watermark+maxAhead {
			break
		}
		if to-from >= worthSkipping && s.Stretches()+len(d.parts.running) < maxStretches {
			return span{from, to}, true
		}
		from = to
	}
	return span{}, false
}

// fetchSegment copies a segment into the spool, over a stream of its own.
func (d *Download) fetchSegment(ctx context.Context, place *lease, s *spool.Spool, p *part) error {
	ctx = place.bind(ctx).ctx
	silence := time.AfterFunc(stealAfter, func() { p.cancel(errSilent) })
	defer silence.Stop()
	stream, err := d.src.Open(oci.WithAssembly(oci.WithSegment(ctx, d.team.host), d.assembly()), p.from, p.to-p.from)
	if err == nil {
		d.contributes(stream)
		err = d.copyPart(ctx, s, stream, p, func(n int) {
			silence.Reset(stealAfter)
			place.bytes.Add(int64(n))
			d.segmentBytes(n)
		})
		stream.Close()
	}
	// A segment that has to end fails with whatever was under way.
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// segmentBytes counts the bytes of a segment. With the first ones the trial of the team begins.
func (d *Download) segmentBytes(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slot == nil {
		return
	}
	d.slot.bytes.Add(int64(n))
	if t := &d.team; t.trial.IsZero() {
		t.trial, t.slot, t.before = time.Now(), d.slot, d.slot.bytes.Load()
	}
}

// segmentEnded takes the helper of a segment out of the team. A failure of the source leaves the
// download with one stream.
func (d *Download) segmentEnded(ctx context.Context, p *part) {
	result := segmentDone
	d.mu.Lock()
	t := &d.team
	t.helpers--
	switch {
	case p.err == nil:
	case errors.Is(p.err, errYielded):
		result = segmentYielded
		t.judged = true // the trial was none
	case errors.Is(p.err, errSilent) || ctx.Err() == nil && !errors.Is(p.err, errUnattended):
		result = segmentFailed
		t.over = true
		t.refused = t.refused || errors.Is(p.err, oci.ErrNoRange)
	default: // the download, or its team, has ended
		result = segmentDropped
	}
	d.mu.Unlock()
	d.group.opts.Metrics.segmentEnded(result)
	if result == segmentFailed {
		d.group.opts.Logger.Debug("a download continues with one stream", "digest", d.digest, "upstream", t.host, "error", p.err)
	}
	d.partEnded(p)
}

// judge compares the pace of the team with that of one stream, once. A team that is not faster
// has no successors for a while. If more downloads run than before, the paces tell nothing.
func (d *Download) judge(slot *lease) {
	t := &d.team
	taken := d.group.slots.taken()
	d.mu.Lock()
	if t.judged || t.trial.IsZero() || slot.bytes.Load()-t.before < trialBytes && t.slot == slot {
		d.mu.Unlock()
		return
	}
	t.judged = true
	pace := float64(slot.bytes.Load()-t.before) / max(time.Since(t.trial), time.Microsecond).Seconds()
	vain := t.slot == slot && taken-t.helpers <= t.beside && pace < leastGain*t.pace
	t.over = t.over || vain
	d.mu.Unlock()
	if vain {
		t.segmenter.Single("several streams of one blob are not faster than one")
	}
}

// share returns the end of the stretch that the goroutine's stream brings from an offset on, and
// -1 if it goes on to the end. The caller holds the mutex of the download.
func (t *team) share(from, size int64) int64 {
	if t.helpers == 0 || t.over {
		return -1
	}
	return t.endOf(from, size)
}

// lane returns how many bytes the goroutine's stream may read next, so that it ends its stretch
// where a helper's begins.
func (t *team) lane(at int64, g gap) int64 {
	if !g.bounded && t.lead > at {
		return min(copyBuffer, t.lead-at)
	}
	return copyBuffer
}

// deserted reports whether nothing brings the bytes at the watermark while the goroutine's
// stream is far ahead of it, and far from the end of its gap. Readers wait for them.
func (d *Download) deserted(s *spool.Spool, at int64, g gap) bool {
	if d.team.length == 0 || !g.bounded || g.to-at < worthCutting {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	watermark := s.Written()
	if watermark >= g.from || d.parts.whole {
		return false
	}
	for _, p := range d.parts.running {
		if p.from <= watermark && watermark < p.to {
			return false
		}
	}
	return true
}
