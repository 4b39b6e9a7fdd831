package evict

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/storage"
)

const (
	// leaseIntervals is how many intervals a mirror that died keeps the others from evicting.
	leaseIntervals = 3
	// refusedPause is how long nothing is tried again that is not allowed.
	refusedPause = time.Hour
	// maxRemoved is how many blobs are removed at once, as S3 takes them.
	maxRemoved = 1000
	// signing is how long a mirror may take from its look at the plan to the answer with a URL.
	signing = 10 * time.Second
	// maxSharedHeadroom bounds the part of a shared limit that is kept free: the uploads of a
	// fleet while content leaves, at 1 Gbit/s.
	maxSharedHeadroom = 256 << 30
)

// SharedStore is a store that several mirrors share, as far as its eviction needs it.
type SharedStore interface {
	Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error)
	// Contents lists all content, each with the time of its upload by the clock of this
	// machine, in no particular order. It calls other for the rest, without a size for keys that
	// are not of Weir.
	Contents(ctx context.Context, other func(key string, size int64)) iter.Seq2[storage.Entry, error]
	// DeleteAll deletes blobs. It returns those that are gone, and the first failure.
	DeleteAll(ctx context.Context, contents []digest.Digest) (gone []digest.Digest, err error)
}

// Lease lets one mirror of a shared store evict.
type Lease interface {
	// Hold takes the lease for some time, or renews it. It reports false if another mirror
	// has it.
	Hold(ctx context.Context, life time.Duration) (bool, error)
	// Release gives it back, if this mirror has it.
	Release(ctx context.Context)
}

// SharedOptions configure [Shared].
type SharedOptions struct {
	Store SharedStore
	Notes Notes
	Lease Lease
	// MaxBytes bounds the bytes of content and records; 0: no limit.
	MaxBytes int64
	// MaxUnused is how long content stays that no mirror uses; 0: no limit.
	MaxUnused time.Duration
	// Blocks is that of the first SetBlocks.
	Blocks map[string]int64
	// Interval is that of [UsesOptions].
	Interval time.Duration
	// Presigned is how long clients may read a blob by themselves after they learned its
	// place; 0: they do not learn it.
	Presigned time.Duration
	// Pinned returns the blobs that never leave; nil: there are none.
	Pinned func() []digest.Digest
	// Refused reports whether a failure is a missing permission.
	Refused func(error) bool
	Metrics *SharedMetrics
	Logger  *slog.Logger // the default discards
}

// grace is how long content leaves before it is removed. Each mirror has looked at the plan
// since then, or redirects no client, and its earlier promises to clients have ended.
func (o *SharedOptions) grace() time.Duration {
	grace := staleAfter*o.Interval + o.Interval/2
	if o.Presigned > 0 {
		grace += o.Presigned + signing
	}
	return grace
}

// Shared keeps a shared store within its limits, while this mirror has the lease.
type Shared struct {
	opts        SharedOptions
	failing     *episode.Episode
	undeletable bool // the last deletion failed
	blocks      atomic.Pointer[map[string]int64]

	stop    context.CancelFunc
	running sync.WaitGroup
}

// NewShared returns an evictor that works until Close.
func NewShared(opts SharedOptions) *Shared {
	s := newShared(opts)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.running.Go(func() { s.run(ctx) })
	return s
}

// newShared returns an evictor that does nothing yet.
func newShared(opts SharedOptions) *Shared {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Refused == nil {
		opts.Refused = func(error) bool { return false }
	}
	s := &Shared{
		opts:    opts,
		failing: episode.New(calm, func() { opts.Logger.Info("content can be evicted from the bucket again") }),
	}
	s.SetBlocks(opts.Blocks)
	return s
}

// SetBlocks says which owners are configured, and what cap each has on the bytes of content that
// it brought in; 0: no cap. It takes effect within an interval.
func (s *Shared) SetBlocks(caps map[string]int64) { s.blocks.Store(&caps) }

// Close ends the eviction, and gives the lease back. Content that leaves stays.
func (s *Shared) Close() {
	s.stop()
	s.running.Wait()
}

// run waits for the lease, and evicts as long as it has that.
func (s *Shared) run(ctx context.Context) {
	life := leaseIntervals * s.opts.Interval
	for ctx.Err() == nil {
		pause, began := s.opts.Interval, time.Now()
		held, err := s.opts.Lease.Hold(ctx, life)
		switch {
		case err == nil || ctx.Err() != nil:
		case s.opts.Refused(err): // the lease is an object, which may not be written
			s.ended(ctx, fail("asking for the lease", err))
			pause = refusedPause
		default:
			s.opts.Logger.Debug("cannot request the lease for evictions from the bucket", "error", err)
		}
		if held {
			t := newTenure(s)
			err := t.tend(ctx, began.Add(life), t.work)
			s.ended(ctx, err)
			if s.opts.Refused(err) {
				pause = refusedPause
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// ended logs the failure of a tenure once.
func (s *Shared) ended(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil || errors.Is(err, errLeaseLost) {
		return
	}
	if s.failing.Bad() {
		s.opts.Logger.Error("nothing is evicted from the bucket, so it may exceed its limits. Check that it can be reached, and that its keys may be listed, written and deleted", "error", err)
	}
}

var errLeaseLost = errors.New("evict: the lease is lost")

// tend works while the lease can be renewed, and gives it back in the end.
func (t *tenure) tend(ctx context.Context, until time.Time, work func(context.Context) error) error {
	working, cancel := context.WithCancelCause(ctx)
	t.until.Store(&until)
	var renewing sync.WaitGroup
	renewing.Go(func() { t.renew(working, cancel) })
	err := work(working)
	if cause := context.Cause(working); cause != nil && ctx.Err() == nil {
		err = cause
	}
	cancel(nil)
	renewing.Wait()
	t.end(err)
	return err
}

// tenure is the time in which this mirror has the lease. Its index is built at the start.
type tenure struct {
	*Shared
	inventory *inventory
	scanner   *scanner
	id        string
	until     atomic.Pointer[time.Time] // the lease is sure until then

	order    order // of the predecessor; nil once the index is built
	owned    owned // as order
	unowning bool  // the owners of the predecessor are there and cannot be read, so they stay as they are
	others   others
	leaving  map[slot]leaving
	held     map[slot]bool       // pinned blobs
	turn     int                 // of the last plan
	merged   map[string]bool     // notes whose uses are in the index, and not in the order yet
	ordered  time.Time           // the order was written
	scanned  time.Time           // the index was compared with the store
	spares   int64               // uses after that time keep content that leaves
	removing func(storage.Entry) // is called for each blob that is gone; may be nil
}

// leaving is a blob that is in the plan, or will be.
type leaving struct {
	why   reason
	since time.Time // it is in a plan of this tenure since then; zero: not yet
}

// others are the keys of a listing that are not content.
type others struct {
	records int64 // bytes
	foreign int64 // keys, or groups of them
	example string
}

// renew keeps the lease, and cancels if it is lost.
func (t *tenure) renew(ctx context.Context, cancel context.CancelCauseFunc) {
	life := leaseIntervals * t.opts.Interval
	for {
		timer := time.NewTimer(min(t.opts.Interval, time.Until(*t.until.Load())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		began := time.Now()
		held, err := t.opts.Lease.Hold(ctx, life)
		switch {
		case err == nil && held:
			t.until.Store(new(began.Add(life)))
		case err == nil, !t.holds(): // another mirror has it, or may have it by now
			cancel(errLeaseLost)
			return
		}
	}
}

// holds reports whether no other mirror can have the lease. A process that was stopped for a
// time finds out by this.
func (t *tenure) holds() bool { return time.Now().Before(*t.until.Load()) }

// end gives the work to the next mirror.
func (t *tenure) end(err error) {
	t.inventory.mu.Lock()
	blocks := t.inventory.listBlocks()
	t.inventory.mu.Unlock()
	t.opts.Metrics.idle(blocks)
	if errors.Is(err, errLeaseLost) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closingPatience)
	defer cancel()
	// A plan without an evictor would keep clients from redirects for nothing.
	t.leaving = nil
	if failure := t.writePlan(ctx, err != nil && !errors.Is(err, context.Canceled)); failure != nil {
		t.opts.Logger.Debug("cannot write the plan for evictions from the bucket", "error", failure)
	}
	if len(t.merged) > 0 {
		t.writeOrder(ctx)
	}
	t.opts.Lease.Release(ctx)
}
