package download

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// copyBuffer is how many bytes a flight moves at a time.
	copyBuffer = 128 << 10
	// grace is how long an unattended flight keeps its upstream connection.
	grace = time.Second
)

// errUnattended ends a fetch that nobody wants at the moment.
var errUnattended = errors.New("storage: nobody wants this download now")

// storeError is a failure of the store, not of the source: it costs the cache
// entry and never a reader's stream.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// Flight is the one download of a digest, with many readers. It owns its
// goroutine and a context that no client can end: a client that leaves never
// kills the download that others, or the cache, want.
//
// The bytes go through the hash into a spool. Once the digest is verified the
// spool is complete for its readers, then committed, and only then does the
// flight leave the map of [Group]. While nobody holds a flight it pauses: it
// gives its place among the running downloads back and resumes at its offset
// when it is held again.
type Download struct {
	flights *Group
	digest  digest.Digest
	src     Source
	started time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	span    trace.Span    // of the whole flight; one that does nothing where it is not traced
	looked  chan struct{} // closed when the store has been searched once more
	ready   chan struct{} // closed when the size is known, or the flight ended
	done    chan struct{} // closed when the flight ended
	isReady sync.Once

	// The flight's goroutine sets these before it closes looked.
	found   bool  // the store has the content already
	lookErr error // of the search

	// The flight's goroutine alone uses these until done is closed; then
	// they are never changed again.
	hash   hash.Hash // of the bytes in the spool
	stored bool
	err    error

	mu      sync.Mutex
	spool   *spool.Spool  // nil while there is none
	origin  string        // of the stream that is or was last copied
	holds   int           // readers and completing jobs
	held    chan struct{} // closed and replaced when holds leaves zero
	arrived bool          // the content is there and verified; what is left is to store it
	stopped bool          // the goroutine has ended; the last hold closes the spool
}

func newDownload(fs *Group, dgst digest.Digest, src Source) *Download {
	ctx, cancel := context.WithCancel(fs.ctx)
	return &Download{
		flights: fs,
		digest:  dgst,
		src:     src,
		started: time.Now(),
		ctx:     ctx,
		cancel:  cancel,
		span:    trace.SpanFromContext(context.Background()),
		looked:  make(chan struct{}),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		hash:    dgst.Algorithm().Hash(),
		holds:   1,
		held:    make(chan struct{}),
	}
}

// Digest returns what the flight downloads.
func (f *Download) Digest() digest.Digest { return f.digest }

// Complete holds the flight until it has ended, and returns its error, or the
// context's.
func (f *Download) Complete(ctx context.Context) error {
	f.hold()
	defer f.release()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Abandon gives the flight up, unless somebody holds it.
func (f *Download) Abandon() {
	f.flights.mu.Lock()
	defer f.flights.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds == 0 {
		f.flights.removeLocked(f)
		f.cancel()
	}
}

// look searches the store once more. A flight leaves the map only after its
// commit, so the content of an earlier one, which ended between the caller's
// search and this flight's start, shows here.
func (f *Download) look() {
	obj, err := f.flights.opts.Store.Open(f.ctx, f.digest)
	switch {
	case err == nil:
		obj.Content.Close()
		f.found = true
	case !errors.Is(err, storage.ErrNotExist):
		f.lookErr = err
	}
}

// awaitLook waits for the flight's search of the store, or the end of ctx. It
// reports whether the store has the content.
func (f *Download) awaitLook(ctx context.Context) (bool, error) {
	select {
	case <-f.looked:
		return f.found, f.lookErr
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func (f *Download) run() {
	defer f.cancel()
	f.look()
	if f.found || f.lookErr != nil {
		// No download takes place, so none is counted. The flight is out of the
		// map before its waiters go on, and search the store or start anew.
		f.err, f.stored = f.lookErr, f.found
		f.end(f.lookErr)
		close(f.looked)
		return
	}
	f.flights.opts.Metrics.started()
	close(f.looked)
	err := f.download()
	var store storeError
	if errors.As(err, &store) {
		f.flights.opts.Health.Failed(store.error, "digest", f.digest)
	}
	f.err = err
	f.end(err)
	f.flights.opts.Metrics.endedAs(f.result(), time.Since(f.started))
}

// end takes the flight out of the map and tells its readers.
func (f *Download) end(err error) {
	var store storeError
	f.endSpan()
	f.flights.remove(f)
	f.mu.Lock()
	f.stopped = true
	if f.spool != nil && err != nil {
		// What cannot be stored is surely not the whole; of a content of
		// unknown size whose source failed, nobody knows.
		if errors.As(err, &store) || f.spool.Size() >= 0 && !errors.Is(err, storage.ErrCorrupt) {
			f.spool.Break(err)
		} else {
			f.spool.Fail(err)
		}
	}
	f.closeSpool()
	f.mu.Unlock()
	close(f.done)
	f.markReady()
}

// download fetches until the content is there, pausing while nobody wants it
// and beginning anew where a source delivered something else.
func (f *Download) download() error {
	s, err := f.flights.opts.Spools.Create(-1)
	if err != nil {
		return storeError{err}
	}
	f.mu.Lock()
	f.spool = s
	f.mu.Unlock()
	for {
		err := f.fetch(s)
		switch {
		case err == nil:
			f.commit(s)
			return nil
		case errors.Is(err, errUnattended):
			f.span.AddEvent("paused: nobody reads it")
			if !f.attended(0) {
				return context.Cause(f.ctx)
			}
			f.span.AddEvent("resumed")
		case errors.Is(err, errElsewhere) && s.Reset():
			f.hash.Reset()
		default:
			return err
		}
	}
}

// errElsewhere marks a corrupt content that another upstream may have right.
var errElsewhere = fmt.Errorf("%w, another upstream may do better", storage.ErrCorrupt)

// fetch takes a place among the running downloads and copies the rest of the
// content into the spool.
func (f *Download) fetch(s *spool.Spool) error {
	places, namespace := f.flights.places, f.src.Repository.Namespace
	f.flights.opts.Metrics.waits(1)
	err := places.enter(f.ctx, namespace)
	f.flights.opts.Metrics.waits(-1)
	if err != nil {
		return err
	}
	defer places.leave(namespace)
	stream, err := f.src.Open(f.ctx, s.Written(), -1)
	if err != nil {
		return err
	}
	defer stream.Close()
	f.mu.Lock()
	f.origin = stream.Origin
	f.mu.Unlock()
	if stream.Size >= 0 {
		if err := s.Announce(stream.Size); err != nil {
			return storeError{err}
		}
	}
	f.markReady()
	if err := f.copy(s, stream); err != nil {
		return err
	}
	return f.verify(s, stream)
}

func (f *Download) copy(s *spool.Spool, stream *Stream) error {
	buf := make([]byte, copyBuffer)
	for {
		n, readErr := stream.Read(buf)
		if n > 0 {
			written, err := s.Write(buf[:n])
			f.hash.Write(buf[:written])
			switch {
			case errors.Is(err, spool.ErrSize):
				return f.reject(stream, err)
			case err != nil:
				return storeError{err}
			}
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return readErr
		}
		if !f.attended(grace) {
			return errUnattended
		}
	}
}

// verify compares the digest of what came, and releases the readers.
func (f *Download) verify(s *spool.Spool, stream *Stream) error {
	if got := digest.NewDigest(f.digest.Algorithm(), f.hash); got != f.digest {
		return f.reject(stream, fmt.Errorf("%d bytes have digest %s", s.Written(), got))
	}
	// Before the readers learn of it: the first may leave at once.
	f.mu.Lock()
	f.arrived = true
	f.mu.Unlock()
	if err := s.Complete(); err != nil {
		return f.reject(stream, err)
	}
	return nil
}

// reject blames the source for a content that is not the one asked for.
func (f *Download) reject(stream *Stream, why error) error {
	kind := storage.ErrCorrupt
	if stream.Reject != nil && stream.Reject() {
		kind = errElsewhere
	}
	f.flights.opts.Logger.Warn("an upstream delivered bytes that do not match their digest; nothing was stored",
		"upstream", stream.Origin, "repository", f.src.Repository.String(), "digest", f.digest, "error", why)
	return fmt.Errorf("%w: %s from %s: %w", kind, f.digest, stream.Origin, why)
}

// commit stores a complete spool. Its failure costs nobody anything but the
// cache entry.
func (f *Download) commit(s *spool.Spool) {
	if f.src.Verified != nil {
		f.src.Verified(storage.Info{Digest: f.digest, Size: s.Size()})
	}
	if err := f.flights.opts.Store.Commit(f.ctx, f.digest, s); err != nil {
		f.flights.opts.Health.Failed(err, "digest", f.digest)
		f.span.RecordError(err)
		return
	}
	f.stored = true
	f.flights.opts.Health.Succeeded()
	f.span.AddEvent("stored")
}

// attended reports whether somebody wants the flight. Where nobody does it
// waits for one, for no longer than limit unless that is zero.
func (f *Download) attended(limit time.Duration) bool {
	f.mu.Lock()
	holds, held := f.holds, f.held
	f.mu.Unlock()
	if holds > 0 {
		return true
	}
	var timeout <-chan time.Time
	if limit > 0 {
		timeout = time.After(limit)
	}
	select {
	case <-held:
		return true
	case <-timeout:
		return false
	case <-f.ctx.Done():
		return false
	}
}

func (f *Download) hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds == 0 {
		close(f.held)
		f.held = make(chan struct{})
	}
	f.holds++
}

// release gives a hold back and reports whether the download is left
// unfinished with nobody to want it.
func (f *Download) release() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds--
	f.closeSpool()
	return f.holds == 0 && !f.arrived && !f.stopped
}

// closeSpool closes the spool when neither goroutine nor hold needs it any
// more. The caller holds the mutex.
func (f *Download) closeSpool() {
	if f.stopped && f.holds == 0 && f.spool != nil {
		f.spool.Close()
		f.spool = nil
	}
}

func (f *Download) markReady() { f.isReady.Do(func() { close(f.ready) }) }

// progress returns the spool, nil when there is none, and how many bytes are
// in it.
func (f *Download) progress() (*spool.Spool, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.spool == nil {
		return nil, 0
	}
	return f.spool, f.spool.Written()
}

// failure returns how the flight failed; nil while it runs and when it did not.
func (f *Download) failure() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}
