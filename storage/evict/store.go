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

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// headroomShare is which part of a limit is kept free, so that usual
	// downloads need not wait for an eviction: one twentieth.
	headroomShare = 20
	// maxHeadroom bounds that part, in bytes.
	maxHeadroom = 1 << 30
)

// Options say what a [Store] keeps to. Every limit may be left out.
type Options struct {
	// MaxBytes is how many bytes the contents and the running downloads may
	// have together.
	MaxBytes int64
	// MinFree is how many bytes the filesystem is to have free, as Free tells.
	MinFree int64
	Free    func() (int64, error)
	// MaxUnused is how long content stays that nobody uses.
	MaxUnused time.Duration
	// Touch tells the store below when a content was last used, so that it is
	// known after a restart.
	Touch   func(ctx context.Context, dgst digest.Digest, used time.Time) error
	Metrics *Metrics
	Logger  *slog.Logger // the default discards
}

// Store keeps a store within limits by evicting what has not been used for
// longest.
//
// Every Stat, Open and Commit is a use, so a Store belongs in front of all that
// answers from memory. A use of a manifest is a use of all that it refers to:
// its config and layers, and the manifests of an index with theirs.
//
// MaxBytes is a hard cap. Stored bytes and those set aside for downloads never
// exceed it together, because Store is the [spool.Quota] of the spools: who
// wants space waits until enough has been deleted, or is refused, and then the
// content is streamed past the cache. What is being read or written is never
// evicted. Bytes are those of the contents: directories, records, and what a
// filesystem rounds up come on top.
//
// Deleting, reading manifests to learn what they refer to, and writing down when
// a content was last used are the work of Store's own goroutines, never of a
// request. A part of MaxBytes and MinFree is kept free in advance, so that
// downloads seldom have to wait either.
//
// The records of evicted content stay. They are small and say what a repository
// may have, which spares asking its upstream for that right when the content
// comes back; whether the content is there is for the Store to say.
//
// The index is in memory, about 150 bytes for each content. It is loaded
// in the background; nothing is evicted before it is complete, and where there is
// a MaxBytes nothing is stored either after a short wait. What other processes do
// in the same store is noticed when a content is used, or after an hour.
type Store struct {
	next storage.Store
	opts Options

	stop    context.CancelFunc
	running sync.WaitGroup
	started time.Time
	wake    chan struct{} // something may have to be evicted
	fresh   chan struct{} // manifests may have been used
	loaded  chan struct{} // closed when the index is complete

	mu         sync.Mutex
	index      index
	ready      bool          // loaded is closed
	reserved   int64         // bytes set aside for spools
	waiting    int64         // bytes that somebody waits to set aside
	roomWanted int64         // bytes that somebody waits to be removed from the filesystem
	removed    int64         // bytes that have been removed since the start
	changed    chan struct{} // closed and replaced when who waits should look again
	failure    error         // of the last deletion; nil when that succeeded
	failedAt   time.Time     // when it did not
	closed     bool

	used      []slot // dirty entries
	manifests []slot // queued entries

	refs references // used by one goroutine, that of keepLimits
}

var (
	_ storage.Store = (*Store)(nil)
	_ spool.Quota   = (*Store)(nil)
)

// New returns a Store in front of next, whose contents are committed from
// the given spools, and makes it their quota. It works in the background until
// its Close.
func New(next storage.Store, spools *spool.Dir, opts Options) *Store {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Store{
		next: next, opts: opts, stop: cancel, started: time.Now(),
		wake: make(chan struct{}, 1), fresh: make(chan struct{}, 1), loaded: make(chan struct{}),
		index: newIndex(), changed: make(chan struct{}), refs: newReferences(),
	}
	spools.SetQuota(l)
	l.running.Go(func() { l.keepIndex(ctx) })
	l.running.Go(func() { l.keepLimits(ctx) })
	l.running.Go(func() { l.keepTouching(ctx) })
	return l
}

// Close ends the work in the background and writes down what was used since it
// last was. Who waits for space is refused. The store can still be used, but
// nothing is evicted any more.
func (l *Store) Close() error {
	l.stop()
	l.mu.Lock()
	l.closed = true
	l.broadcast()
	l.mu.Unlock()
	l.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closingPatience)
	defer cancel()
	l.follow(ctx)
	return l.touch(ctx)
}

// Stat implements [storage.Store].
func (l *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	info, err := l.next.Stat(ctx, dgst)
	if err != nil {
		return info, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, e := l.known(dgst, info.Size)
	if e.is(doomed) {
		return storage.Info{}, notThere(dgst)
	}
	l.use(s, e, time.Now().UnixNano())
	return info, nil
}

// Open implements [storage.Store]. The content is not evicted before it is closed.
func (l *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	l.mu.Lock()
	s, e := l.index.find(keyOf(dgst))
	if e != nil {
		if e.is(doomed) {
			l.mu.Unlock()
			return nil, notThere(dgst)
		}
		l.index.pin(e)
	}
	l.mu.Unlock()
	object, err := l.next.Open(ctx, dgst)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if e != nil {
			l.index.unpin(s, e)
			l.lost(s, e, err)
		}
		return nil, err
	}
	if e == nil {
		s, e = l.known(dgst, object.Size)
		l.index.pin(e)
	}
	l.use(s, e, time.Now().UnixNano())
	return l.pinned(object, s), nil
}

// Commit implements [storage.Store]. The content is not evicted before the spool and all
// its readers are closed.
func (l *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	s, e, fresh, err := l.expect(ctx, dgst, !sp.Urgent())
	if err != nil {
		return err
	}
	err = l.next.Commit(ctx, dgst, sp)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.index.unpin(s, e)
		if fresh && e.is(linked) && e.is(arriving) { // nobody else has stored it meanwhile
			l.index.unlink(e)
			l.index.free(s, e)
		}
		return err
	}
	l.index.resize(e, sp.Size())
	e.state &^= arriving
	l.use(s, e, time.Now().UnixNano())
	if fresh {
		l.reserved -= sp.HandOver(func() { l.unpin(s) })
		return nil
	}
	// It had been stored already: the spool's file is a second one until it
	// is closed.
	var surplus int64
	surplus = sp.HandOver(func() {
		l.Release(surplus)
		l.unpin(s)
	})
	return nil
}

// expect pins the entry of a content that is about to be committed. A fresh one,
// of a content that is not there yet, has no bytes: they are those of the spool's
// reservation until the commit is done, whoever sees the content before. It
// waits for one that is just being deleted if it may, and else returns
// spool.ErrBusy.
func (l *Store) expect(ctx context.Context, dgst digest.Digest, wait bool) (s slot, e *entry, fresh bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		s, e = l.index.find(keyOf(dgst))
		if e == nil && !l.ready {
			l.mu.Unlock()
			info, err := l.next.Stat(ctx, dgst)
			l.mu.Lock()
			if err == nil {
				s, e = l.known(dgst, info.Size)
			} else {
				s, e = l.index.find(keyOf(dgst))
			}
		}
		switch {
		case e == nil:
			k, other := split(dgst)
			s, e = l.index.add(k, other, 0)
			e.state |= arriving
			l.index.pin(e)
			return s, e, true, nil
		case !e.is(doomed):
			l.index.pin(e)
			return s, e, false, nil
		case !wait:
			return 0, nil, false, fmt.Errorf("%w: %s is just being deleted", spool.ErrBusy, dgst)
		}
		changed := l.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		l.mu.Lock()
		if err != nil {
			return 0, nil, false, err
		}
	}
}

// Delete implements [storage.Store].
func (l *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	l.mu.Lock()
	s, e := l.index.find(keyOf(dgst))
	idle := e != nil && e.pins == 0 && !e.is(doomed)
	if idle {
		l.index.doom(e)
	}
	l.mu.Unlock()
	err := l.next.Delete(ctx, dgst)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch gone := err == nil || errors.Is(err, storage.ErrNotExist); {
	case idle:
		l.finish(s, e, gone)
	case gone:
		_, still := l.index.find(keyOf(dgst))
		if still == e && e != nil && e.pins > 0 && (err == nil || !e.is(arriving)) {
			l.index.orphan(e)
		}
	}
	return err
}

// All implements [storage.Store].
func (l *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] { return l.next.All(ctx) }

// known returns the entry of a content that the store below has. The caller
// holds the mutex.
func (l *Store) known(dgst digest.Digest, size int64) (slot, *entry) {
	k, other := split(dgst)
	s, e := l.index.find(k)
	if e == nil {
		s, e = l.index.add(k, other, size)
		l.index.link(s, e)
		l.check()
	}
	return s, e
}

// lost makes an entry the next one to be evicted when somebody else has deleted
// its content. The caller holds the mutex.
func (l *Store) lost(s slot, e *entry, err error) {
	if errors.Is(err, storage.ErrNotExist) && e.is(linked) {
		l.index.unlink(e)
		l.index.linkLast(s, e)
		e.used = 0
	}
}

func (l *Store) unpin(s slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.at(s)
	if !e.is(orphaned) {
		l.use(s, e, time.Now().UnixNano())
	}
	l.index.unpin(s, e)
	l.check()
	if l.waiting > 0 || l.roomWanted > 0 {
		l.broadcast()
	}
}

// broadcast wakes all who wait. The caller holds the mutex.
func (l *Store) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func headroom(limit int64) int64 { return min(limit/headroomShare, maxHeadroom) }

func notThere(dgst digest.Digest) error { return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst) }
