// Package download runs at most one download per digest, with many readers.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Source is one repository's way to a content. Delivering the content also
// proves that the repository possesses it.
type Source struct {
	Repository storage.RepoID
	// Open opens the content at an offset, for length bytes or, when length
	// is -1, to its end. It resumes by itself what breaks on the way; an
	// error it returns, or a read error of its stream, is final.
	Open func(ctx context.Context, offset, length int64) (*Stream, error)
	// Verified, when set, is called once the content is there and verified,
	// before a lookup can find it in the store: what is to be recorded about
	// it is then never missing.
	Verified func(storage.Info)
}

// Stream is a content on its way from a source.
type Stream struct {
	io.ReadCloser
	Size   int64  // of the whole content; -1 when the source does not say
	Origin string // who delivers it, for people
	// Reject, when set, tells the source that what it delivered does not
	// match the digest. It reports whether another try would be made
	// elsewhere.
	Reject func() bool
}

// FlightsOptions are what [NewGroup] needs. Store and Spools share a
// filesystem where the store's driver commits by renaming.
type Options struct {
	Store  storage.Store
	Spools *spool.Dir
	// MaxFetches bounds the downloads that run at once; more wait, and the
	// namespaces that they are for take turns.
	MaxFetches int
	// Idle, when set, is called when the last reader of an unfinished flight
	// has left. It decides whether the flight is completed all the same
	// ([Download.Complete], now or later) or given up ([Download.Abandon]); until
	// it has decided, the flight pauses.
	Idle    func(*Download)
	Health  *storage.Health // of the store; may be nil
	Metrics *Metrics
	// Tracer makes the spans of downloads that a traced request begins; nil:
	// there are none. It has to record all that it is asked for: whether to was
	// decided for the request.
	Tracer trace.Tracer
	Logger *slog.Logger
}

// Flights runs at most one download per digest. See [Download].
type Group struct {
	opts   Options
	places *admission
	ctx    context.Context
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex
	flights map[digest.Digest]*Download
}

// NewFlights returns a Flights that runs until its Close.
func NewGroup(opts Options) *Group {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group{
		opts:    opts,
		places:  newAdmission(opts.MaxFetches),
		ctx:     ctx,
		cancel:  cancel,
		flights: make(map[digest.Digest]*Download),
	}
}

// Open looks a content up in the store and otherwise joins its flight, or
// starts one from src. Exactly one of the three results is set. Whether src's
// repository may have what another repository brought is for the caller to
// settle before it passes a byte on.
func (fs *Group) Open(ctx context.Context, dgst digest.Digest, src Source) (*storage.Object, *Reader, error) {
	obj, err := fs.opts.Store.Open(ctx, dgst)
	if err == nil || !errors.Is(err, storage.ErrNotExist) {
		return obj, nil, err
	}
	for {
		f, joined, err := fs.joinOrStart(ctx, dgst, src)
		if err != nil {
			return nil, nil, err
		}
		r := newReader(ctx, f, src, joined)
		stored, err := f.awaitLook(ctx)
		if err == nil && !stored {
			return nil, r, nil
		}
		r.Close()
		if err != nil {
			return nil, nil, err
		}
		// An earlier flight stored the content between the first look and the
		// start of this one. The content may be evicted before it is opened
		// here, and then the search begins anew.
		obj, err := fs.opts.Store.Open(ctx, dgst)
		if err == nil || !errors.Is(err, storage.ErrNotExist) {
			return obj, nil, err
		}
	}
}

// joinOrStart returns the flight of a digest with one more hold, and whether it
// was there before. It does no I/O: the mutex is shared by all digests.
func (fs *Group) joinOrStart(ctx context.Context, dgst digest.Digest, src Source) (f *Download, joined bool, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.flights[dgst]; ok {
		f.hold()
		linkSpans(trace.SpanFromContext(ctx), f.span)
		return f, true, nil
	}
	if err := fs.ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("storage: no new downloads while shutting down: %w", err)
	}
	f = newDownload(fs, dgst, src)
	f.trace(ctx)
	fs.flights[dgst] = f
	fs.ended.Go(f.run)
	return f, false, nil
}

// Drain waits until no flight is left, or for the context's end, whose error
// it then returns.
func (fs *Group) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		fs.ended.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close cancels the flights that still run and waits for their end.
func (fs *Group) Close() {
	// Under the mutex, so that no flight starts after the wait has begun.
	fs.mu.Lock()
	fs.cancel()
	fs.mu.Unlock()
	fs.ended.Wait()
}

// remove takes a flight out of the map, if it is still there.
func (fs *Group) remove(f *Download) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.removeLocked(f)
}

// removeLocked leaves another flight of the same digest alone. The caller holds
// the mutex.
func (fs *Group) removeLocked(f *Download) {
	if fs.flights[f.digest] == f {
		delete(fs.flights, f.digest)
	}
}
