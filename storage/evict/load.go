package evict

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// rescanInterval is how often the index is compared with what is there.
	rescanInterval = time.Hour
	// reloadDelay is how long after a failure it is loaded again.
	reloadDelay = 30 * time.Second
	// batch is how many entries are changed while requests wait.
	batch = 512
)

// keepIndex loads the index, and from then on corrects what other processes have
// changed, until its context ends.
func (l *Store) keepIndex(ctx context.Context) {
	scan := l.load
	for {
		began, pause := time.Now(), rescanInterval
		err := scan(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.opts.Logger.Error("cannot list what is stored, so the limits of the store may not be kept; trying again", "error", err, "after", reloadDelay)
			pause = reloadDelay
		default:
			l.opts.Logger.Debug("indexed what is stored", "took", time.Since(began))
			scan = l.reconcile
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// listed is a content that was there before this process used it.
type listed struct {
	key   key
	other digest.Digest
	size  int64
	used  int64
}

// load adds all that is stored to the index, in the order of its last use. What
// has been used since the start is there already, and was used later.
func (l *Store) load(ctx context.Context) error {
	var contents []listed
	for found, err := range l.next.All(ctx) {
		if err != nil {
			return err
		}
		k, other := split(found.Digest)
		used := min(found.Used.UnixNano(), l.started.UnixNano())
		contents = append(contents, listed{key: k, other: other, size: found.Size, used: used})
	}
	slices.SortFunc(contents, func(a, b listed) int { return cmp.Compare(b.used, a.used) })
	for part := range slices.Chunk(contents, batch) {
		l.mu.Lock()
		for _, c := range part {
			if _, known := l.index.find(c.key); known == nil {
				s, e := l.index.add(c.key, c.other, c.size)
				e.used = c.used
				l.index.linkLast(s, e)
			}
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = true
	close(l.loaded)
	l.broadcast()
	return nil
}

// reconcile adds what another process has stored since, as used now, and forgets
// what another one has deleted.
func (l *Store) reconcile(ctx context.Context) error {
	began := time.Now().UnixNano()
	found := make([]storage.Entry, 0, batch)
	flush := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, entry := range found {
			s, e := l.known(entry.Digest, entry.Size)
			if e.used == 0 {
				l.use(s, e, began)
			}
			e.state |= seen
		}
		found = found[:0]
	}
	for entry, err := range l.next.All(ctx) {
		if err != nil {
			return err
		}
		if found = append(found, entry); len(found) == batch {
			flush()
		}
	}
	flush()
	l.forgetUnseen(began)
	return nil
}

// forgetUnseen forgets the entries that a scan has not found, but for those that
// have been used since it began.
func (l *Store) forgetUnseen(began int64) {
	l.mu.Lock()
	slots := l.index.slots
	l.mu.Unlock()
	for s := slot(1); s < slots; {
		l.mu.Lock()
		for end := min(s+batch, slots); s < end; s++ {
			e := l.index.at(s)
			if e.is(linked) && !e.is(seen) && e.used < began {
				l.index.unlink(e)
				l.index.free(s, e)
			}
			e.state &^= seen
		}
		l.mu.Unlock()
	}
}
