package download

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Options configure a [Group].
type Options struct {
	Store storage.Store
	// Spools makes spools that Store can commit: for a store on disk, files in
	// its own filesystem.
	Spools *spool.Dir
	// Origins are read in front of each Source, in this order, if the stored bytes may be
	// used for its repository too.
	Origins []Origin
	// MaxFetches bounds the downloads that run at once, together with the streams that
	// readers open by themselves, which take half of the places at most. More wait, and
	// their namespaces take turns.
	MaxFetches int
	// MinSpeed is how many bytes a second must come in a minute's average for a
	// download that no client waits for; 0: any number.
	MinSpeed int64
	// OnUnattended, if set, is called when the last reader of an unfinished
	// download has left. It decides, at once or later, whether the download is
	// completed anyway ([Download.Complete]) or abandoned
	// ([Download.Abandon]); until then the download pauses.
	OnUnattended func(*Download)
	// OnDamaged, if set, is called with stored content that does not have the size
	// of a [Source], before it is downloaded again.
	OnDamaged func(ctx context.Context, stored storage.Info, size int64)
	Health    *storage.Health // of the store; may be nil
	Metrics   *Metrics
	// Tracer makes the spans of downloads that a traced request starts; nil
	// makes none. It must record every span: the sampling decision is the
	// request's.
	Tracer trace.Tracer
	Logger *slog.Logger // the default discards
}

// Group runs at most one download per digest. See [Download].
type Group struct {
	opts    Options
	slots   *slots
	streams *slots          // of readers; each takes one of slots too
	ctx     context.Context // of all downloads
	cancel  context.CancelFunc
	running sync.WaitGroup
	buffers sync.Pool // of *[copyBuffer]byte

	dispensable atomic.Bool // true: the lease of a segment yields to any download

	mu        sync.Mutex // no I/O under it: all digests share it
	downloads map[key]*Download
}

// key identifies a download.
type key struct {
	digest digest.Digest
	// within is the repository whose sources alone may join, of a Source that is Apart.
	// Otherwise it has no name, and stands for its namespace: the upstreams of another one
	// may be slow or hostile, and a reader that waits for their bytes could wait for ever.
	within storage.RepoID
	lent   bool // the sources have a Lent
}

func keyOf(dgst digest.Digest, src Source) key {
	if src.Apart {
		return key{digest: dgst, within: src.Repository}
	}
	return key{dgst, storage.RepoID{Namespace: src.Repository.Namespace}, src.Lent != nil}
}

// NewGroup returns a group that works until its Close.
func NewGroup(opts Options) *Group {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Group{
		opts:      opts,
		slots:     newSlots(opts.MaxFetches),
		streams:   newSlots(max(1, opts.MaxFetches/2)),
		ctx:       ctx,
		cancel:    cancel,
		buffers:   sync.Pool{New: func() any { return new([copyBuffer]byte) }},
		downloads: make(map[key]*Download),
	}
	g.dispensable.Store(true)
	return g
}

// Open opens a stored blob, or else joins its download or starts one from
// src. Content that is not lent to src counts as not stored. Exactly one of the
// three results is set. If the download of another repository of the namespace
// brings the bytes, the caller must make sure that src's repository may have them
// before it passes one on.
func (g *Group) Open(ctx context.Context, dgst digest.Digest, src Source) (*storage.Object, *Reader, error) {
	for {
		// Without a lock: a slow store holds up this client alone.
		obj, err := g.find(ctx, dgst, src)
		if err == nil || !errors.Is(err, storage.ErrNotExist) {
			return obj, nil, err
		}
		d, joined, err := g.joinOrStart(ctx, dgst, src)
		if err != nil {
			return nil, nil, err
		}
		r := newReader(ctx, d, src, joined)
		found, err := d.awaitSearch(ctx)
		if err == nil && !found {
			if joined {
				linkSpans(trace.SpanFromContext(ctx), d.span)
			}
			return nil, r, nil
		}
		r.Close()
		if err != nil {
			return nil, nil, err
		}
		// An earlier download stored the content after the search above. If it
		// is evicted before the next search, that one starts a download.
	}
}

// Stored reports whether [Group.Open] would find the content of a source in the store, or
// fail to look. It does not count as a use of the content.
func (g *Group) Stored(ctx context.Context, dgst digest.Digest, src Source) bool {
	if !src.borrows(ctx) {
		return false
	}
	info, err := g.opts.Store.Stat(ctx, dgst)
	return !errors.Is(err, storage.ErrNotExist) && (err != nil || src.Size == 0 || info.Size == src.Size)
}

// find opens a stored blob. Content that does not have the size of a source, unless
// that is 0, counts as not stored: a client must not take it for the whole.
func (g *Group) find(ctx context.Context, dgst digest.Digest, src Source) (*storage.Object, error) {
	// Before the store is touched: a search is a use of the content, and takes time.
	if !src.borrows(ctx) {
		return nil, storage.ErrNotExist
	}
	size := src.Size
	obj, err := g.opts.Store.Open(ctx, dgst)
	if err != nil || size == 0 || obj.Size == size {
		return obj, err
	}
	obj.Content.Close()
	if g.opts.OnDamaged != nil {
		g.opts.OnDamaged(ctx, obj.Info, size)
	}
	return nil, fmt.Errorf("%w: %s has %d bytes instead of %d", storage.ErrNotExist, dgst, obj.Size, size)
}

// joinOrStart returns the download of a digest with one more holder, and whether
// it was running before.
func (g *Group) joinOrStart(ctx context.Context, dgst digest.Digest, src Source) (d *Download, joined bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, ok := g.downloads[keyOf(dgst, src)]; ok {
		d.hold()
		return d, true, nil
	}
	if err := g.ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("storage: no new downloads while shutting down: %w", err)
	}
	d = newDownload(g, dgst, src)
	g.downloads[d.key] = d
	request := trace.SpanFromContext(ctx)
	g.running.Go(func() { d.run(request) })
	return d, false, nil
}

// Drain waits until no download is left. If the context ends first, Drain
// returns its cause.
func (g *Group) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		g.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close cancels the running downloads and waits for their end.
func (g *Group) Close() {
	// Under the mutex, so that no download starts once the wait has begun.
	g.mu.Lock()
	g.cancel()
	g.mu.Unlock()
	g.running.Wait()
}

// remove takes a download out of the map.
func (g *Group) remove(d *Download) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(d)
}

// removeLocked is remove for a caller that holds the mutex. A later download of
// the same digest, which may have taken the place in the map, stays.
func (g *Group) removeLocked(d *Download) {
	if g.downloads[d.key] == d {
		delete(g.downloads, d.key)
	}
}
