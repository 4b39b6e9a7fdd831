package evict

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// rescanInterval is how often the store is listed, and compared with the index if there
	// is one. Only other processes make a difference, most of which are noticed earlier, and
	// a scan reads all directories.
	rescanInterval = time.Hour
	// reloadDelay is how long after a failure the store is listed again.
	reloadDelay = 30 * time.Second
	// batch is how many entries are changed under the mutex at once: less than a
	// millisecond's work, for which requests wait.
	batch = 512
)

// scanner loads the index, and corrects it later for changes by other processes.
// It is one goroutine.
type scanner struct {
	inventory *inventory
	next      lister
	owners    func(context.Context) owned // reads which blocks brought the content in
	changed   <-chan struct{}             // another process has changed the store
	logger    *slog.Logger
}

// lister is a store as far as a scanner needs it.
type lister interface {
	Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error)
	All(ctx context.Context) iter.Seq2[storage.Entry, error]
}

// run scans until its context ends. It begins when the index is wanted.
func (c *scanner) run(ctx context.Context) {
	for wanted := false; !wanted; {
		select {
		case <-c.inventory.wanted.C():
			wanted = true
		case <-c.changed:
			wanted = c.pass(ctx)
		case <-time.After(rescanInterval):
			wanted = c.pass(ctx)
		case <-ctx.Done():
			return
		}
	}
	scan := c.load
	for {
		began, pause := time.Now(), rescanInterval
		err := scan(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.logger.Error("cannot list the content of the store, so the store may exceed its limits. Weir tries again", "error", err, "after", reloadDelay)
			pause = reloadDelay
		default:
			c.logger.Debug("indexed the content of the store", "took", time.Since(began))
			scan = c.reconcile
		}
		select {
		case <-time.After(pause):
		case <-c.changed:
		case <-ctx.Done():
			return
		}
	}
}

// pass lists the store for those below, which compare with it what they know. It ends early, and
// reports so, if the index is wanted meanwhile.
func (c *scanner) pass(ctx context.Context) (wanted bool) {
	var failed error
	for _, err := range c.next.All(ctx) {
		if err != nil && failed == nil && ctx.Err() == nil {
			failed = err // others may be of the same disk
			c.logger.Warn("cannot list all content of the store, so figures may include content that another process has removed", "error", err)
		}
		select {
		case <-c.inventory.wanted.C():
			return true
		default:
		}
	}
	return false
}

// listed is a blob that the store had before this process used it.
type listed struct {
	key   key
	other digest.Digest
	size  int64
	used  int64
}

// load adds all stored content to the index, in the order of its last use. Content
// that was used since the start is there already, and was used later.
func (c *scanner) load(ctx context.Context) error {
	i := c.inventory
	var contents []listed
	for found, err := range c.next.All(ctx) {
		if err != nil {
			return err
		}
		k, other := split(found.Digest)
		contents = append(contents, listed{key: k, other: other, size: found.Size, used: found.Used.UnixNano()})
	}
	slices.SortFunc(contents, func(a, b listed) int { return cmp.Compare(b.used, a.used) })
	owned := c.owners(ctx)
	for part := range slices.Chunk(contents, batch) {
		i.mu.Lock()
		for _, content := range part {
			i.index.load(content, owned.of(content.key))
		}
		i.mu.Unlock()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ready = true
	close(i.loaded)
	i.changed.Notify()
	return nil
}

// reconcile adds content that another process has stored, as used now, and forgets
// content that another process has deleted. Content whose last use still lies in the
// future counts as used now, and its time is written again: a clock ran ahead at that
// use, and by now it has been set right. Earlier it may be the present time that is
// wrong, as it is on machines that boot without a clock.
func (c *scanner) reconcile(ctx context.Context) error {
	i := c.inventory
	began := time.Now().UnixNano()
	i.mu.Lock()
	i.scan++
	scan := i.scan
	i.mu.Unlock()
	found := make([]storage.Entry, 0, batch)
	for content, err := range c.next.All(ctx) {
		if err != nil {
			return err
		}
		if found = append(found, content); len(found) == batch {
			c.compare(ctx, found, scan, began)
			found = found[:0]
		}
	}
	c.compare(ctx, found, scan, began)
	c.forgetUnseen(ctx, scan, began)
	return nil
}

// compare notes that a scan has found blobs.
func (c *scanner) compare(ctx context.Context, found []storage.Entry, scan uint16, began int64) {
	var unknown []digest.Digest
	i := c.inventory
	i.mu.Lock()
	for _, content := range found {
		if s, e := i.index.lru.find(keyOf(content.Digest)); e != nil {
			i.found(s, scan, began)
		} else {
			unknown = append(unknown, content.Digest)
		}
	}
	i.mu.Unlock()
	// A blob that the index does not know may have been evicted since it was listed,
	// so the store is asked once more.
	for _, dgst := range unknown {
		deletions := i.deletions.Load()
		info, err := c.next.Stat(ctx, dgst)
		if err != nil {
			continue
		}
		i.mu.Lock()
		// If another deletion has ended meanwhile, the next scan finds the content.
		if s, _, ok := i.discover(dgst, info.Size, deletions); ok {
			i.found(s, scan, began)
		}
		i.mu.Unlock()
	}
}

// found notes that a scan has found a blob. The caller holds the mutex.
func (i *inventory) found(s slot, scan uint16, began int64) {
	e := i.index.lru.at(s)
	if e.used == 0 || e.used > time.Now().UnixNano() { // new, or it had vanished and has come back
		i.use(s, began)
	}
	e.scan = scan
}

// forgetUnseen forgets the blobs that a scan has not found. Those that were used since it began
// may have been stored behind it, or only a manifest that names them was used: the store is asked.
func (c *scanner) forgetUnseen(ctx context.Context, scan uint16, began int64) {
	i := c.inventory
	i.mu.Lock()
	slots := i.index.lru.slots
	i.mu.Unlock()
	var doubtful []digest.Digest
	for s := slot(1); s < slots; {
		i.mu.Lock()
		for end := min(s+batch, slots); s < end; s++ {
			e := i.index.lru.at(s)
			switch {
			case e.phase != idle || e.scan == scan:
			case e.used < began:
				i.index.forget(s)
			default:
				doubtful = append(doubtful, i.index.lru.digest(e))
			}
		}
		i.mu.Unlock()
		for _, dgst := range doubtful {
			if _, err := c.next.Stat(ctx, dgst); errors.Is(err, storage.ErrNotExist) {
				i.forgetGone(dgst)
			}
		}
		doubtful = doubtful[:0]
	}
}

// forgetGone forgets a blob that the store does not have. One that has come since the look is
// found by the next scan.
func (i *inventory) forgetGone(dgst digest.Digest) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s, e := i.index.lru.find(keyOf(dgst)); e != nil && e.phase == idle {
		i.index.forget(s)
	}
}
