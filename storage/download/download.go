package download

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// phase is a state of a download. The package comment has the diagram.
type phase uint8

const (
	searching  phase = iota // in the store, for the content of an earlier download
	waiting                 // for a slot
	copying                 // from the source into the spool
	paused                  // until a reader comes, without a slot
	committing              // complete and verified; the store takes it
	ended
)

// storeError is a failure of the store, not of the source. Readers are not
// affected: they go on with their own sources, and the content is not cached.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// Download is the one download of a digest, with many readers. Readers and the
// callers of Complete hold it. While nothing holds it, it pauses: it gives its
// slot back, and resumes at its offset when it is held again.
type Download struct {
	group   *Group
	digest  digest.Digest
	key     key
	src     Source
	started time.Time
	cancel  context.CancelFunc

	searched chan struct{} // closed at the end of the search
	ready    chan struct{} // closed when the size is known, or the download ended
	done     chan struct{} // closed when the download ended
	// forgotten is closed, under mu, when the content was taken out of the cache: it is not stored.
	forgotten chan struct{}
	isReady   sync.Once

	// The goroutine writes these before it closes searched; they stay as they are.
	found     bool // the store has the content
	searchErr error
	span      trace.Span // of the whole download; does nothing if it is not traced

	ctx context.Context // of the goroutine, with its span

	// The download's goroutine writes these before it closes done; then they
	// stay as they are. Until then, only that goroutine reads them.
	sum     checksum // of the bytes in the spool up to its watermark, once they are hashed
	opened  bool     // the source was asked
	stored  bool
	origins []Origin      // that are left to be read before src
	lent    []func() bool // the Reject of each stream of an origin that contributed
	resumes int           // how often streams of origins broke off
	endings []func(stored bool)
	team    team // with fields of its own that mu guards

	working sync.WaitGroup // fetches of parts

	mu    sync.Mutex
	phase phase
	// The transfer that is under way began at a moment, with some bytes there already.
	since  time.Time
	from   int64
	parts  parts
	slot   *lease       // nil without one
	spool  *spool.Spool // nil before copying, and when nothing needs it any more
	origin string       // of the last stream
	peer   bool         // the last stream is that of another mirror
	// unproven is set while a stream contributes that proves no possession.
	unproven bool
	err      error            // of an ended download
	holders  int              // readers and callers of Complete
	clients  int              // readers that read
	held     notify.Broadcast // holders is no longer zero

	spare   atomic.Bool      // no client has asked for the content so far
	claimed notify.Broadcast // one has
}

func newDownload(g *Group, dgst digest.Digest, src Source) *Download {
	ctx, cancel := context.WithCancel(g.ctx)
	d := &Download{
		group:     g,
		digest:    dgst,
		key:       keyOf(dgst, src),
		src:       src,
		started:   time.Now(),
		ctx:       ctx,
		cancel:    cancel,
		span:      trace.SpanFromContext(context.Background()),
		searched:  make(chan struct{}),
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		forgotten: make(chan struct{}),
		sum:       newChecksum(dgst),
		holders:   1,
	}
	d.spare.Store(src.spare)
	return d
}

// Digest returns the digest of the content.
func (d *Download) Digest() digest.Digest { return d.digest }

// Namespace returns the key of the repository block from whose upstreams the content
// comes.
func (d *Download) Namespace() string { return d.src.Repository.Namespace }

// Complete holds the download until it has ended, and returns its error, ErrForgotten, or
// the cause of the context's end.
func (d *Download) Complete(ctx context.Context) error {
	d.hold()
	defer d.release()
	return d.await(ctx)
}

func (d *Download) await(ctx context.Context) error {
	select {
	case <-d.done:
		// A forgotten download succeeds for its readers.
		if err := d.view().err; err != nil || !d.isForgotten() {
			return err
		}
		return ErrForgotten
	case <-d.forgotten:
		return ErrForgotten
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Abandon gives the download up, unless it is held.
func (d *Download) Abandon() {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holders == 0 {
		// Out of the map at once, so that no reader joins a canceled download.
		d.group.removeLocked(d)
		d.cancel()
	}
}

// run is the download's goroutine. The request is that of the client that started
// it.
func (d *Download) run(request trace.Span) {
	defer d.cancel()
	metrics := d.group.opts.Metrics
	d.search()
	if d.found || d.searchErr != nil {
		// Nothing is downloaded, so nothing is counted. The download is out of
		// the map before the clients that wait for the search go on: they search
		// the store, and may start another one.
		d.stored = d.found
		d.end(d.searchErr)
		close(d.searched)
		return
	}
	metrics.downloadStarted()
	d.trace(request)
	s, err := d.createSpool()
	close(d.searched)
	if err == nil {
		err = d.fetchAll(s)
	}
	d.endParts(true)
	if err != nil {
		d.hashRest()
	}
	var failed storeError
	// A failed source says nothing about the store.
	if errors.As(err, &failed) {
		d.group.opts.Health.Failed(failed.error, "digest", d.digest)
	}
	d.end(err)
	d.callEndings()
	metrics.downloadEnded(d.result(), time.Since(d.started))
}

// search looks for the content in the store once more. Downloads leave the map
// after their commit, so the result of one that ended between the client's
// search and the start of this one shows here.
func (d *Download) search() {
	obj, err := d.group.find(d.ctx, d.digest, d.src)
	switch {
	case err == nil:
		obj.Content.Close() // each client opens it by itself
		d.found = true
	case !errors.Is(err, storage.ErrNotExist):
		d.searchErr = err
	}
}

// awaitSearch waits for the end of the search, and reports whether the store has
// the content.
func (d *Download) awaitSearch(ctx context.Context) (found bool, err error) {
	select {
	case <-d.searched:
		return d.found, d.searchErr
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// end takes the download out of the map and tells its readers.
func (d *Download) end(err error) {
	d.endSpan(err)
	// Out of the map first: a client that sees the failure may start another one.
	d.group.remove(d)
	d.mu.Lock()
	d.phase, d.err = ended, err
	if d.spool != nil && err != nil {
		endSpool(d.spool, err)
	}
	d.closeSpool()
	d.mu.Unlock()
	close(d.done)
	d.markReady()
}

// endSpool makes a spool's readers see how its download failed.
func endSpool(s *spool.Spool, err error) {
	var store storeError
	switch {
	case errors.As(err, &store):
		// The store refused a byte, so the spool is incomplete: all of it may be read.
		s.Interrupt(err)
	case s.Size() >= 0 && !errors.Is(err, storage.ErrCorrupt):
		s.Interrupt(err)
	default:
		// The size is unknown or the bytes are wrong. The spool may hold the
		// whole content, unverified: its tail stays withheld.
		s.Fail(err)
	}
}

// enter begins a phase.
func (d *Download) enter(p phase) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase = p
	if p == copying {
		d.since, d.from = time.Now(), d.spool.Written()
	}
}

func (d *Download) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holders++; d.holders == 1 {
		d.held.Notify()
	}
}

// release gives a hold back, and reports whether that leaves an unfinished
// download without holders.
func (d *Download) release() (unattended bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holders--
	d.closeSpool()
	// A blob that is complete is committed in any case.
	return d.holders == 0 && d.phase < committing
}

// leave gives a hold back. It passes a download that is unfinished and has no other holder to
// unattended, if that is set, and gives up a forgotten one.
func (d *Download) leave(unattended func(*Download)) {
	switch unfinished := d.release(); {
	case !unfinished:
	case d.isForgotten():
		d.Abandon()
	case unattended != nil:
		unattended(d)
	}
}

// attended reports whether the download is held. If it is not, attended waits
// for a holder, for patience or, if that is zero, as long as the download lives.
func (d *Download) attended(patience time.Duration) bool {
	d.mu.Lock()
	if d.holders > 0 {
		d.mu.Unlock()
		return true
	}
	held := d.held.Wait()
	d.mu.Unlock()
	var timeout <-chan time.Time
	if patience > 0 {
		timeout = time.After(patience)
	}
	select {
	case <-held:
		return true
	case <-timeout:
		return false
	case <-d.ctx.Done():
		return false
	}
}

// closeSpool closes the spool when neither the goroutine nor a holder needs it
// any more. The caller holds the mutex.
func (d *Download) closeSpool() {
	if d.phase == ended && d.holders == 0 && d.spool != nil {
		d.spool.Close()
		d.spool = nil
	}
}

func (d *Download) markReady() { d.isReady.Do(func() { close(d.ready) }) }

// view is how a download stands at one moment, for its readers.
type view struct {
	spool   *spool.Spool // nil if there is none
	written int64        // bytes in the spool
	origin  string       // the host that delivers; "" while none does
	peer    bool         // another mirror delivers
	err     error        // nil while the download runs, and if it succeeded
}

func (d *Download) view() view {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := view{spool: d.spool, origin: d.origin, peer: d.peer, err: d.err}
	if v.spool != nil {
		v.written = v.spool.Written()
	}
	return v
}
