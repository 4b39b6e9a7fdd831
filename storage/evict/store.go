package evict

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// closingPatience bounds how long Close follows references and writes times of
// last use. Both are lost without harm, and the process is expected to end.
const closingPatience = 5 * time.Second

// Options configure a [Store]. Each limit may be left out.
type Options struct {
	// MinFree is how many bytes are kept free in the filesystem. Free returns how
	// many bytes it has free.
	MinFree int64
	Free    func() (int64, error)
	// MaxUnused is how long unused content stays.
	MaxUnused time.Duration
	// Lazy leaves the index of the stored content out until a limit needs it: without a
	// limit of the Quota and without MaxUnused that is when free space runs short.
	Lazy bool
	// Holds is set if Hold is called soon. Nothing is evicted before, for half a minute at most.
	Holds bool
	// MaxManifest is the largest manifest, in bytes, whose references are
	// followed. The default is oci.DefaultMaxManifest.
	MaxManifest int64
	// Touch records when a blob was last used, so that the order of use
	// survives a restart. If it is nil, nothing is recorded.
	Touch func(ctx context.Context, dgst digest.Digest, used time.Time) error
	// Owners keeps the owners of content beyond a restart. If it is nil, content of before the
	// start has none.
	Owners storage.Records
	// Blocks is that of the first SetBlocks.
	Blocks map[string]int64
	// Referred is called with the blobs that a used manifest refers to and the store does not
	// have, if their digests are sha256. They may be elsewhere. It may be nil.
	Referred func(digest.Digest)
	// Changed asks for a comparison of the index with the store, which another process may have
	// changed. Without an index the store is only listed, so that the stores below can compare
	// what they know. It may be nil.
	Changed <-chan struct{}
	Metrics *Metrics
	Logger  *slog.Logger // the default discards
}

// Store decorates a store: it pins content that is open, and notes uses. Four
// goroutines evict, follow references, and record times of last use and owners until Close.
type Store struct {
	next       storage.Store
	inventory  *inventory
	references *references
	touches    *touches
	owners     *owners
	changing   keylock.Map[key] // blobs that are committed, or deleted by Delete
	holds      holds

	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ storage.Store = (*Store)(nil)

// New returns a Store over next. The spools that are committed to it take part in
// the quota, which belongs to this Store alone.
func New(next storage.Store, quota *Quota, opts Options) *Store {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxManifest <= 0 {
		opts.MaxManifest = oci.DefaultMaxManifest
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := quota.inventory
	i.recording, i.maxManifest = opts.Touch != nil, opts.MaxManifest
	s := &Store{
		next: next, inventory: i, stop: cancel, holds: newHolds(),
		references: newReferences(i, next, opts),
		touches:    &touches{inventory: i, record: opts.Touch, logger: opts.Logger},
		owners:     &owners{inventory: i, records: opts.Owners, logger: opts.Logger},
	}
	s.SetBlocks(opts.Blocks)
	evictor := &evictor{inventory: i, next: next, references: s.references, opts: opts, held: s.holds.first}
	evictor.failing = episode.New(calm, func() { opts.Logger.Info("content can be deleted again") })
	scanner := &scanner{inventory: i, next: next, owners: s.owners.read, changed: opts.Changed, logger: opts.Logger}
	if !opts.Lazy || opts.MaxUnused > 0 || i.index.ledger.max > 0 {
		i.wanted.Notify()
	}
	s.running.Go(func() { scanner.run(ctx) })
	s.running.Go(func() { evictor.run(ctx) })
	s.running.Go(func() { s.references.run(ctx) })
	s.running.Go(func() { s.touches.run(ctx) })
	s.running.Go(func() { s.owners.run(ctx) })
	return s
}

// SetMaxManifest changes Options.MaxManifest, from the next use of each blob on.
func (s *Store) SetMaxManifest(bytes int64) {
	s.inventory.mu.Lock()
	defer s.inventory.mu.Unlock()
	s.inventory.maxManifest = bytes
}

// SetShared says whether several owners share the store. Then none of them makes room by
// evicting content that others have used within a day, once it has more than any other.
func (s *Store) SetShared(several bool) {
	s.inventory.mu.Lock()
	defer s.inventory.mu.Unlock()
	s.inventory.index.ledger.several = several
}

// Close ends the work in the background and records the times of last use, and the owners, that
// have not been recorded yet. Waiting downloads are refused. The Store can still be
// used, but it no longer evicts.
func (s *Store) Close() error {
	s.stop()
	s.inventory.mu.Lock()
	s.inventory.closed = true
	s.inventory.changed.Notify()
	s.inventory.mu.Unlock()
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closingPatience)
	defer cancel()
	// The use of a manifest is a use of its blobs, so references go first.
	s.references.follow(ctx)
	return errors.Join(s.touches.write(ctx), s.owners.write(ctx))
}

// Stat returns the size of a blob, and counts as a use of it.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	i := s.inventory
	for {
		deletions := i.deletions.Load()
		info, err := s.next.Stat(ctx, dgst)
		if err != nil {
			return info, err
		}
		if again, err := s.useSeen(dgst, info.Size, deletions); !again {
			return info, err
		}
	}
}

// useSeen notes the use of a blob that the store below has shown. It asks for
// another look if the content may have been deleted since.
func (s *Store) useSeen(dgst digest.Digest, size int64, deletions uint64) (again bool, err error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e, ok := i.discover(dgst, size, deletions)
	switch {
	case !ok:
		return true, nil
	case e.phase == deleting:
		return false, notThere(dgst)
	}
	i.use(slot, time.Now().UnixNano())
	return false, nil
}

// Open opens a blob, and counts as a use of it. The content is not evicted
// before it is closed.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	for {
		deletions := s.inventory.deletions.Load()
		slot, found, err := s.pin(dgst)
		if err != nil {
			return nil, err
		}
		object, err := s.next.Open(ctx, dgst)
		if err != nil {
			if found {
				s.openFailed(slot, err)
			}
			return nil, err
		}
		if !found {
			// The index did not know the content: it is not loaded yet, or another
			// process has stored the content.
			if slot, found, err = s.pinOpened(dgst, object.Size, deletions); err != nil || !found {
				if err = errors.Join(err, object.Content.Close()); err != nil {
					return nil, err
				}
				continue
			}
		}
		return s.pinned(object, slot), nil
	}
}

// pin pins a blob if the index knows it. It returns storage.ErrNotExist if the
// content is being deleted.
func (s *Store) pin(dgst digest.Digest) (slot slot, found bool, err error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e := i.index.lru.find(keyOf(dgst))
	switch {
	case e == nil:
		return 0, false, nil
	case e.phase == deleting:
		return 0, false, notThere(dgst)
	}
	i.index.pin(slot)
	i.use(slot, time.Now().UnixNano())
	return slot, true, nil
}

// pinOpened pins a blob that was opened before the index knew it. It reports false
// if the content may have been deleted since, and returns storage.ErrNotExist if it is
// being deleted.
func (s *Store) pinOpened(dgst digest.Digest, size int64, deletions uint64) (slot slot, ok bool, err error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e, ok := i.discover(dgst, size, deletions)
	switch {
	case !ok:
		return 0, false, nil
	case e.phase == deleting:
		return 0, false, notThere(dgst)
	}
	i.index.pin(slot)
	i.use(slot, time.Now().UnixNano())
	return slot, true, nil
}

// openFailed unpins a blob that could not be opened.
func (s *Store) openFailed(slot slot, err error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index.unpin(slot)
	if errors.Is(err, storage.ErrNotExist) { // another process has deleted it
		i.index.vanished(slot)
	}
}

// Commit stores a blob, and counts as a use of it. The content is not evicted
// before the spool and all its readers are closed. It waits until a deletion of the
// same content has ended; if the spool must not wait, it returns an error that matches
// spool.ErrBusy instead.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	slot, unlock, err := s.begin(ctx, dgst, !sp.NoWait())
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.next.Commit(ctx, dgst, sp); err != nil {
		s.inventory.mu.Lock()
		defer s.inventory.mu.Unlock()
		s.inventory.index.unpin(slot)
		return err
	}
	// The spool's lock is below the inventory's, and both calls are made without
	// the latter, so that readers of the spool never wait for the index. The size
	// of a complete spool does not change.
	h := &handover{store: s, slot: slot, owner: sp.Owner()}
	size, reserved := sp.Size(), sp.TransferQuota(h.closed)
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if o := i.owner(h.owner); i.index.commit(slot, o, size, reserved) {
		i.unwritten[ownerPart(keyOf(dgst))] = true
		i.checkOwner(o)
	} else {
		// The content had been stored already: the spool's file is a second one
		// until it is closed.
		h.surplus = reserved
	}
	i.use(slot, time.Now().UnixNano())
	return nil
}

// handover is the share of a committed spool in the quota.
type handover struct {
	store   *Store
	slot    slot
	owner   string
	surplus int64 // reserved for a second file; set before the caller of Commit can close the spool
}

// closed is called when the spool and its readers are closed.
func (h *handover) closed() {
	h.store.inventory.release(h.owner, h.surplus)
	h.store.unpin(h.slot)
}

// begin pins the entry of a blob that is about to be committed, and adds it if
// the content is not stored yet. If the content is being evicted, begin waits for
// the end of that if it may, and else returns an error that matches spool.ErrBusy.
// Until unlock is called, no other commit and no Delete of the content begins.
func (s *Store) begin(ctx context.Context, dgst digest.Digest, wait bool) (slot slot, unlock func(), err error) {
	s.load(ctx, dgst)
	for {
		slot, ended := s.tryBegin(dgst)
		switch {
		case ended == nil:
			// The lock is not held during the wait below, which is longer than a commit.
			unlock = s.changing.Lock(keyOf(dgst))
			if s.keepBegun(slot) {
				return slot, unlock, nil
			}
			unlock()
			continue
		case !wait:
			return 0, nil, fmt.Errorf("%w: %s is just being deleted", spool.ErrBusy, dgst)
		}
		select {
		case <-ended: // or another deletion has
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
}

// keepBegun reports whether the entry of a commit is still that of its content. If not,
// since Delete has come before the commit, it unpins the entry.
func (s *Store) keepBegun(slot slot) bool {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.index.lru.at(slot).phase != detached {
		return true
	}
	i.index.unpin(slot)
	return false
}

// load adds a blob to an index that is not loaded. Until it is, only the store below
// distinguishes stored content from new content.
func (s *Store) load(ctx context.Context, dgst digest.Digest) {
	i := s.inventory
	if s.indexed(dgst) {
		return
	}
	deletions := i.deletions.Load()
	info, err := s.next.Stat(ctx, dgst)
	if err != nil { // the content is new, or the commit fails soon
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.discover(dgst, info.Size, deletions)
}

// tryBegin is one attempt of begin. If the content is being deleted, it returns a
// channel that is closed when a deletion has ended.
func (s *Store) tryBegin(dgst digest.Digest) (slot, <-chan struct{}) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e := i.index.lru.find(keyOf(dgst))
	switch {
	case e == nil:
		return i.index.begin(dgst), nil
	case e.phase == deleting:
		return 0, i.changed.Wait()
	default: // stored already, or being stored by another one
		i.index.pin(slot)
		return slot, nil
	}
}

// indexed reports whether the index can say whether a blob is stored.
func (s *Store) indexed(dgst digest.Digest) bool {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	_, e := i.index.lru.find(keyOf(dgst))
	return i.ready || e != nil
}

// Delete deletes a blob. Clients that have it open read on.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	defer s.changing.Lock(keyOf(dgst))()
	err := s.next.Delete(ctx, dgst)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.deletions.Add(1)
	// No commit has published the content meanwhile, so the entry, however new it is,
	// is that of the deleted content. That of a commit which waits for the lock stays,
	// and the evictor ends its own deletion.
	switch slot, e := i.index.lru.find(keyOf(dgst)); {
	case e == nil:
	case e.phase == idle:
		i.index.forget(slot)
		i.changed.Notify()
	case e.phase == pinned:
		i.index.detach(slot)
	}
	return err
}

// All lists the blobs of the store below.
func (s *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] { return s.next.All(ctx) }

// unpin ends the use of an open blob.
func (s *Store) unpin(slot slot) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.use(slot, time.Now().UnixNano())
	o := i.index.lru.at(slot).owner
	i.index.unpin(slot)
	i.checkOwner(o)
	if l := &i.index.ledger; l.waiting > 0 || l.requested > 0 {
		i.changed.Notify() // there is more to evict than before
	}
}

func notThere(dgst digest.Digest) error { return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst) }
