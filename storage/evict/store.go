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
	// MaxUnused is how long content stays that is not used.
	MaxUnused time.Duration
	// MaxManifest is the largest manifest, in bytes, whose references are
	// followed. The default is oci.DefaultMaxManifest.
	MaxManifest int64
	// Touch records when a content was last used, so that the order of use
	// survives a restart. If it is nil, nothing is recorded.
	Touch   func(ctx context.Context, dgst digest.Digest, used time.Time) error
	Metrics *Metrics
	Logger  *slog.Logger // the default discards
}

// Store decorates a store: it pins content that is open, and notes uses. Three
// goroutines evict, follow references and record times of last use until Close.
type Store struct {
	next       storage.Store
	inventory  *inventory
	references *references
	touches    *touches

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
		next: next, inventory: i, stop: cancel,
		references: newReferences(i, next),
		touches:    &touches{inventory: i, record: opts.Touch, logger: opts.Logger},
	}
	evictor := &evictor{inventory: i, next: next, references: s.references, opts: opts}
	evictor.failing = episode.New(calm, func() { opts.Logger.Info("content can be deleted again") })
	scanner := &scanner{inventory: i, next: next, logger: opts.Logger}
	s.running.Go(func() { scanner.run(ctx) })
	s.running.Go(func() { evictor.run(ctx) })
	s.running.Go(func() { s.references.run(ctx) })
	s.running.Go(func() { s.touches.run(ctx) })
	return s
}

// SetMaxManifest changes Options.MaxManifest, from the next use of each content on.
func (s *Store) SetMaxManifest(bytes int64) {
	s.inventory.mu.Lock()
	defer s.inventory.mu.Unlock()
	s.inventory.maxManifest = bytes
}

// Close ends the work in the background and records the times of last use that
// have not been recorded yet. Waiting downloads are refused. The Store can still be
// used, but it evicts no more.
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
	return s.touches.write(ctx)
}

// Stat returns the size of a content, and counts as a use of it.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	info, err := s.next.Stat(ctx, dgst)
	if err != nil {
		return info, err
	}
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e := s.discover(dgst, info.Size)
	if e.phase == deleting {
		return storage.Info{}, notThere(dgst)
	}
	i.use(slot, time.Now().UnixNano())
	return info, nil
}

// Open opens a content, and counts as a use of it. The content is not evicted
// before it is closed.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
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
		if slot, err = s.pinOpened(dgst, object.Size); err != nil {
			return nil, errors.Join(err, object.Content.Close())
		}
	}
	return s.pinned(object, slot), nil
}

// pin pins a content if the index knows it. It returns storage.ErrNotExist if the
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

// pinOpened pins a content that was opened before the index knew it. It returns
// storage.ErrNotExist if the content has begun to be deleted meanwhile.
func (s *Store) pinOpened(dgst digest.Digest, size int64) (slot, error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	slot, e := s.discover(dgst, size)
	if e.phase == deleting {
		return 0, notThere(dgst)
	}
	i.index.pin(slot)
	i.use(slot, time.Now().UnixNano())
	return slot, nil
}

// openFailed unpins a content that could not be opened.
func (s *Store) openFailed(slot slot, err error) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index.unpin(slot)
	if errors.Is(err, storage.ErrNotExist) { // another process has deleted it
		i.index.vanished(slot)
	}
}

// Commit stores a content, and counts as a use of it. The content is not evicted
// before the spool and all its readers are closed. It waits until a deletion of the
// same content has ended; if the spool must not wait, it returns an error that matches
// spool.ErrBusy instead.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	slot, err := s.begin(ctx, dgst, !sp.NoWait())
	if err != nil {
		return err
	}
	if err := s.next.Commit(ctx, dgst, sp); err != nil {
		s.inventory.mu.Lock()
		defer s.inventory.mu.Unlock()
		s.inventory.index.unpin(slot)
		return err
	}
	// The spool's lock is below the inventory's, and both calls are made without
	// the latter, so that readers of the spool never wait for the index. The size
	// of a complete spool does not change.
	h := &handover{store: s, slot: slot}
	size, reserved := sp.Size(), sp.TransferQuota(h.closed)
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.index.commit(slot, size, reserved) {
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
	surplus int64 // reserved for a second file; set before the caller of Commit can close the spool
}

// closed is called when the spool and its readers are closed.
func (h *handover) closed() {
	h.store.inventory.release(h.surplus)
	h.store.unpin(h.slot)
}

// begin pins the entry of a content that is about to be committed, and adds it if
// the content is not stored yet. If the content is being deleted, begin waits for
// the end of that if it may, and else returns an error that matches spool.ErrBusy.
func (s *Store) begin(ctx context.Context, dgst digest.Digest, wait bool) (slot, error) {
	if !s.indexed(dgst) {
		// Before the index is loaded, only the store below tells stored content
		// from new content. An error means that it is new, or that the commit
		// fails soon.
		if info, err := s.next.Stat(ctx, dgst); err == nil {
			s.inventory.mu.Lock()
			s.discover(dgst, info.Size)
			s.inventory.mu.Unlock()
		}
	}
	for {
		slot, ended := s.tryBegin(dgst)
		switch {
		case ended == nil:
			return slot, nil
		case !wait:
			return 0, fmt.Errorf("%w: %s is just being deleted", spool.ErrBusy, dgst)
		}
		select {
		case <-ended: // or another deletion has
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
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

// indexed reports whether the index can say whether a content is stored.
func (s *Store) indexed(dgst digest.Digest) bool {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	_, e := i.index.lru.find(keyOf(dgst))
	return i.ready || e != nil
}

// Delete deletes a content. Clients that have it open read on.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	i := s.inventory
	i.mu.Lock()
	slot, e := i.index.lru.find(keyOf(dgst))
	ours := e != nil && e.phase == idle // not pinned, and not being deleted by another one
	if ours {
		i.index.beginDelete(slot)
	}
	i.mu.Unlock()
	err := s.next.Delete(ctx, dgst)
	gone := err == nil || errors.Is(err, storage.ErrNotExist)
	i.mu.Lock()
	defer i.mu.Unlock()
	if ours {
		i.index.finishDelete(slot, gone, time.Now().UnixNano())
		i.changed.Notify()
		return err
	}
	// An entry that has come meanwhile is not that of the deleted content.
	if again, e := i.index.lru.find(keyOf(dgst)); e != nil && again == slot {
		switch {
		case e.phase == pinned && gone:
			i.index.detach(slot)
		case e.phase == committing && err == nil: // else its commit has not got that far
			i.index.detach(slot)
		}
	}
	return err
}

// All lists the contents of the store below.
func (s *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] { return s.next.All(ctx) }

// discover returns the entry of a content that the store below has. The caller
// holds the mutex.
func (s *Store) discover(dgst digest.Digest, size int64) (slot, *entry) {
	slot, e := s.inventory.index.discover(dgst, size)
	s.inventory.check()
	return slot, e
}

// unpin ends the use of an open content.
func (s *Store) unpin(slot slot) {
	i := s.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.use(slot, time.Now().UnixNano())
	i.index.unpin(slot)
	i.check()
	if l := &i.index.ledger; l.waiting > 0 || l.requested > 0 {
		i.changed.Notify() // there is more to evict than before
	}
}

func notThere(dgst digest.Digest) error { return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst) }
