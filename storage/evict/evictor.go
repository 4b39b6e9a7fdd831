package evict

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/storage"
)

const (
	// freePoll is how often the evictor asks for the free space of the filesystem
	// while that is less than twice the minimum. A fast download fills
	// a few GiB in this time.
	freePoll = 5 * time.Second
	// farFreePoll is how often it asks if there is more free space.
	farFreePoll = 30 * time.Second
	// nearShortage is how many times the minimum of free space is so little that a lazy
	// index is loaded. A million blobs take about ten seconds, and a fast download does
	// not fill twice the usual minimum of 1 GiB in that time.
	nearShortage = 4
	// retryDelay is how long nothing is deleted after a deletion failed. The next
	// one is likely to fail too, as on a disk that has become read-only.
	retryDelay = 5 * time.Second
	// calm is how long deletions have to succeed before the log calls them mended.
	calm = 2 * retryDelay
	// longestPause is how often the evictor looks for work without a signal. It
	// is a safety net only.
	longestPause = 10 * time.Minute
)

// reason is the reason of an eviction, as the metrics name it.
type reason string

const (
	forSize   reason = "size"
	forFree   reason = "free"
	forUnused reason = "unused"
	forBlock  reason = "block"
)

// evictor deletes the least recently used blobs until all limits are kept. It is
// one goroutine.
type evictor struct {
	inventory  *inventory
	next       storage.Store
	references *references
	opts       Options
	held       <-chan struct{}  // closed when the blobs to hold are known
	failing    *episode.Episode // deletions fail
}

// victim is a blob that is being deleted.
type victim struct {
	slot   slot
	digest digest.Digest
	size   int64
	unused time.Duration
	reason reason
}

// run evicts until its context ends. It begins when the index is complete, because
// the order of use is not known before.
func (v *evictor) run(ctx context.Context) {
	v.awaitIndex(ctx)
	v.awaitHold(ctx)
	for ctx.Err() == nil {
		// Blobs of a manifest in use must not be taken for unused.
		v.references.settle(ctx)
		timer := time.NewTimer(v.evict(ctx))
		select {
		case <-v.inventory.wake.C():
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// awaitIndex returns when the index is complete, or the context ends. It asks for a lazy
// index before free space runs short.
func (v *evictor) awaitIndex(ctx context.Context) {
	ticker := time.NewTicker(freePoll)
	defer ticker.Stop()
	for {
		if v.opts.Free != nil && v.opts.MinFree > 0 {
			// If the filesystem does not say, the evictor will log it.
			if free, err := v.opts.Free(); err != nil || free < nearShortage*v.opts.MinFree {
				v.inventory.wanted.Notify()
			}
		}
		select {
		case <-v.inventory.loaded:
			return
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// evict evicts all that has to go, and returns how long to wait before the next
// look.
func (v *evictor) evict(ctx context.Context) time.Duration {
	deficit, again := v.deficit()
	if unused := v.opts.MaxUnused; unused > 0 {
		// Content may stay for a hundredth longer than it should.
		again = min(again, max(unused/100, time.Second))
	}
	for ctx.Err() == nil {
		victim, found := v.choose(deficit)
		if !found {
			return again
		}
		err := v.next.Delete(ctx, victim.digest)
		gone := err == nil || errors.Is(err, storage.ErrNotExist)
		if gone {
			v.finished(victim, nil)
		} else {
			v.finished(victim, err)
			return min(again, retryDelay)
		}
		deficit -= victim.size
		if err == nil { // else another process has deleted it
			v.opts.Metrics.evicted(victim.reason, victim.size, victim.unused)
			v.opts.Logger.Debug("evicted", "digest", victim.digest, "bytes", victim.size,
				"unused", victim.unused.Round(time.Second), "reason", string(victim.reason))
		}
	}
	return again
}

// deficit returns how many bytes the filesystem is short of the free space that it
// is to have, and when to ask again.
func (v *evictor) deficit() (int64, time.Duration) {
	if v.opts.MinFree <= 0 || v.opts.Free == nil {
		return 0, longestPause
	}
	free, err := v.opts.Free()
	switch {
	case err != nil:
		v.opts.Logger.Warn("cannot read the free space of the filesystem; content is not evicted to keep space free", "error", err)
		return 0, farFreePoll
	case free < 2*v.opts.MinFree:
		return v.opts.MinFree + headroom(v.opts.MinFree) - free, freePoll
	default:
		return 0, farFreePoll
	}
}

// choose begins the deletion of a blob if one has to go.
func (v *evictor) choose(deficit int64) (victim, bool) {
	i := v.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	now, l, why := time.Now(), &i.index.ledger, v.shortage(deficit)
	s, e := i.index.overCap(&[maxOwners]int64{})
	if e != nil {
		why = forBlock
	} else if s, e = i.index.lru.oldest(); why != "" {
		urgent := l.full() || l.requested > 0 || deficit > headroom(v.opts.MinFree)
		s, e = i.index.victim(urgent, now)
	}
	if e == nil {
		return victim{}, false
	}
	unused := now.Sub(time.Unix(0, e.used))
	if unused < 0 { // a clock ran ahead at that use, which counts as one at the start
		unused = time.Since(i.started)
	}
	if why == "" && v.opts.MaxUnused > 0 && unused > v.opts.MaxUnused {
		why = forUnused
	}
	if why == "" {
		return victim{}, false
	}
	i.index.beginDelete(s)
	return victim{slot: s, digest: i.index.lru.digest(e), size: e.size, unused: unused, reason: why}, true
}

// shortage returns the reason why some content has to go, or nothing. The caller holds
// the inventory's mutex.
func (v *evictor) shortage(deficit int64) reason {
	l, contents := &v.inventory.index.ledger, v.inventory.index.lru.length
	switch {
	case l.full():
		return forSize
	case l.crowded() && contents > 1:
		// The only content is not abandoned for mere headroom: it may be nearly as
		// large as the limit.
		return forSize
	case deficit > 0 || l.requested > 0:
		return forFree
	default:
		return ""
	}
}

// finished ends a deletion. It logs when deletions begin or cease to fail: each
// later failure has the same cause.
func (v *evictor) finished(d victim, err error) {
	i := v.inventory
	i.mu.Lock()
	now := time.Now()
	i.index.finishDelete(d.slot, err == nil, now.UnixNano())
	i.deletions.Add(1)
	i.failure, i.failedAt = err, now
	i.changed.Notify()
	i.mu.Unlock()
	switch {
	case err == nil:
		v.failing.Good()
	case v.failing.Bad():
		v.opts.Logger.Error("cannot delete content, so the store may exceed its limits. Check that the directory of the store is writable", "error", err)
	}
}
