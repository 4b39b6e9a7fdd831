package evict

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
)

const (
	// lookAgain is how long after a failure the plan is read again, and how long an objection
	// waits for others.
	lookAgain = 5 * time.Second
	// planIntervals is for how many intervals after its last change a plan stands for a mirror
	// that evicts. That writes it each interval, and has lost its lease by then.
	planIntervals = 12
)

// staleAfter is after how many intervals without a look at the plan a mirror does not know
// which blobs leave. The mirror that evicts waits longer than that.
const staleAfter = 2

// UsesOptions configure [Uses].
type UsesOptions struct {
	Notes Notes
	// Interval is how often uses are announced and the plan is read. All mirrors have the same.
	Interval time.Duration
	// Forget is called for each blob that begins to leave, or no longer leaves: anything known
	// about it may be wrong from now on. It may be nil.
	Forget func(digest.Digest)
	Logger *slog.Logger // the default discards
}

// Uses is the part that each mirror of a shared store has in its eviction: it tells which
// blobs it uses, and knows which ones leave.
type Uses struct {
	opts   UsesOptions
	wake   notify.Signal
	looked chan struct{} // closed after the first look

	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	pending map[digest.Digest]time.Time // last uses that were not announced yet
	owned   map[digest.Digest]string    // owners that were not announced yet
	leaving map[digest.Digest]struct{}
	known   time.Time // leaving was right then
	read    bool      // the plan was read at the last look
	wanted  bool      // a mirror evicts, and reads uses
	owners  bool      // it reads owners, too
	told    bool      // that the plan cannot be read
}

// NewUses returns the part of this mirror. It announces uses until Close.
func NewUses(opts UsesOptions) *Uses {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Forget == nil {
		opts.Forget = func(digest.Digest) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	u := &Uses{
		opts: opts, wake: notify.NewSignal(), looked: make(chan struct{}), stop: cancel,
		pending: make(map[digest.Digest]time.Time), owned: make(map[digest.Digest]string), leaving: make(map[digest.Digest]struct{}),
	}
	u.running.Go(func() { u.run(ctx) })
	return u
}

// Used notes the use of a blob now. It does not wait.
func (u *Uses) Used(dgst digest.Digest) { u.UsedAt(dgst, time.Now()) }

// UsedAt notes the use of a blob at some time.
func (u *Uses) UsedAt(dgst digest.Digest, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.note(dgst, at)
	// A blob that leaves stays if its use is announced in time.
	if _, leaves := u.leaving[dgst]; leaves || len(u.pending) == maxUses {
		u.wake.Notify()
	}
}

// note notes a use if there is a place for it. The caller holds the mutex.
func (u *Uses) note(dgst digest.Digest, at time.Time) {
	before, noted := u.pending[dgst]
	if noted && at.After(before) || !noted && len(u.pending) < maxUses {
		u.pending[dgst] = at
	}
}

// Owned notes that this mirror has uploaded a blob, and which repository block brought it
// in.
func (u *Uses) Owned(dgst digest.Digest, block string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noteOwner(dgst, block)
}

// noteOwner notes an owner if there is a place for it. The caller holds the mutex.
func (u *Uses) noteOwner(dgst digest.Digest, block string) {
	if _, noted := u.owned[dgst]; !noted && len(u.owned) < maxUses && block != "" && len(block) <= maxOwnerName {
		u.owned[dgst] = block
	}
}

// Leaves reports whether a blob is about to be removed.
func (u *Uses) Leaves(dgst digest.Digest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, leaves := u.leaving[dgst]
	return leaves
}

// Stays reports whether a blob can be promised to a client: it does not leave, and that is
// known. It waits for the first look at the plan.
func (u *Uses) Stays(ctx context.Context, dgst digest.Digest) bool {
	select {
	case <-u.looked:
	case <-ctx.Done():
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_, leaves := u.leaving[dgst]
	return !leaves && !u.known.IsZero() && time.Since(u.known) < staleAfter*u.opts.Interval
}

// Close reports the uses that were not reported yet, within a short time.
func (u *Uses) Close() {
	u.stop()
	u.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closingPatience)
	defer cancel()
	u.tell(ctx)
	u.tellOwners(ctx)
}

func (u *Uses) run(ctx context.Context) {
	u.look(ctx)
	close(u.looked)
	for ctx.Err() == nil {
		u.tell(ctx)
		u.tellOwners(ctx)
		pause := u.opts.Interval
		if u.failed() {
			pause = min(pause, lookAgain)
		}
		select {
		case <-time.After(pause):
		case <-u.wake.C():
			// Objections come in groups, as the layers of an image do.
			select {
			case <-time.After(min(lookAgain, u.opts.Interval/8)):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		if ctx.Err() == nil {
			u.look(ctx)
		}
	}
}

// failed reports whether the last look failed.
func (u *Uses) failed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.read
}

// look reads the plan.
func (u *Uses) look(ctx context.Context) {
	began := time.Now()
	h, leaving, written, err := readPlan(ctx, u.opts.Notes)
	absent := errors.Is(err, storage.ErrNotExist)
	u.mu.Lock()
	u.read = err == nil || absent
	first := errors.Is(err, errNote) && !u.told
	u.told = errors.Is(err, errNote)
	if !u.read {
		u.mu.Unlock()
		if first {
			u.opts.Logger.Warn("the plan of the mirror that evicts cannot be read, so clients are not redirected to the bucket. Run the same version on all mirrors", "error", err)
		}
		return
	}
	before := u.leaving
	u.mu.Unlock()
	evicts := !absent && began.Sub(written) < planIntervals*u.opts.Interval
	if !evicts { // nothing leaves any more
		leaving = nil
	}
	after := make(map[digest.Digest]struct{}, len(leaving))
	for _, content := range leaving {
		after[content.digest] = struct{}{}
	}
	// Those that no longer leave are forgotten while they still count as leaving.
	for dgst := range before {
		u.opts.Forget(dgst)
	}
	u.mu.Lock()
	u.leaving = after
	u.known, u.wanted = began, evicts && !h.Off
	u.owners = u.wanted && h.Owners
	u.mu.Unlock()
	for dgst := range after {
		u.opts.Forget(dgst)
	}
}

// tell writes the uses since the last time, if they are wanted.
func (u *Uses) tell(ctx context.Context) {
	u.mu.Lock()
	uses, wanted := u.pending, u.wanted
	if len(uses) == 0 || !wanted {
		u.mu.Unlock()
		return
	}
	u.pending = make(map[digest.Digest]time.Time)
	u.mu.Unlock()
	err := u.opts.Notes.Write(ctx, usesFolder+"/"+rand.Text(), encodeNote(header{}, func(yield func(digest.Digest, time.Duration) bool) {
		for dgst, at := range uses {
			if !yield(dgst, time.Since(at)) {
				return
			}
		}
	}))
	if err == nil {
		return
	}
	u.opts.Logger.Debug("cannot report which content of the bucket was used. Weir tries again", "error", err)
	u.mu.Lock()
	defer u.mu.Unlock()
	for dgst, at := range uses {
		u.note(dgst, at)
	}
}

// tellOwners writes the owners since the last time, if they are wanted: a note for each owner.
func (u *Uses) tellOwners(ctx context.Context) {
	u.mu.Lock()
	owned := u.owned
	if len(owned) == 0 || !u.owners {
		u.mu.Unlock()
		return
	}
	u.owned = make(map[digest.Digest]string)
	u.mu.Unlock()
	byBlock := make(map[string][]digest.Digest)
	for dgst, block := range owned {
		byBlock[block] = append(byBlock[block], dgst)
	}
	for block, contents := range byBlock {
		for part := range slices.Chunk(contents, maxOwned) {
			err := u.opts.Notes.Write(ctx, ownedFolder+"/"+rand.Text(), encodeNote(header{Block: block}, func(yield func(digest.Digest, time.Duration) bool) {
				for _, dgst := range part {
					if !yield(dgst, 0) {
						return
					}
				}
			}))
			if err == nil {
				continue
			}
			u.opts.Logger.Debug("cannot report which repository block brought content into the bucket. Weir tries again", "error", err)
			u.mu.Lock()
			for _, dgst := range part {
				u.noteOwner(dgst, block)
			}
			u.mu.Unlock()
		}
	}
}
