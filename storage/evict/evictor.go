package evict

import (
	"context"
	"errors"
	"time"

	"github.com/weirhq/weir/storage"
)

const (
	// freePoll is how often the filesystem's free space is looked at while it
	// is less than twice what is to be kept free; otherwise farFreePoll.
	freePoll    = 5 * time.Second
	farFreePoll = 30 * time.Second
	// retryDelay is how long nothing is deleted after a deletion failed.
	retryDelay = 5 * time.Second
	// followDelay is how long after its use a manifest's content counts as
	// used, unless something is evicted before.
	followDelay = time.Second
	// longest is how often the evictor looks around for no reason.
	longest = 10 * time.Minute
)

// reason is why a content is evicted.
type reason string

const (
	forSize   reason = "size"
	forFree   reason = "free"
	forUnused reason = "unused"
)

// keepLimits evicts until its context ends.
func (l *Store) keepLimits(ctx context.Context) {
	select {
	case <-l.loaded:
	case <-ctx.Done():
		return
	}
	var soon <-chan time.Time
	for ctx.Err() == nil {
		// What is used by way of a manifest is not to be taken for unused.
		l.follow(ctx)
		timer := time.NewTimer(l.evict(ctx))
		for idle := true; idle && ctx.Err() == nil; {
			select {
			case <-l.fresh:
				if soon == nil {
					soon = time.After(followDelay)
				}
			case <-soon:
				soon, idle = nil, false
			case <-l.wake:
				idle = false
			case <-timer.C:
				idle = false
			case <-ctx.Done():
			}
		}
		timer.Stop()
	}
}

// evict evicts all that has to go, and returns after what time to look again.
func (l *Store) evict(ctx context.Context) time.Duration {
	lacking, again := l.lacking()
	if unused := l.opts.MaxUnused; unused > 0 {
		again = min(again, max(unused/100, time.Second))
	}
	for ctx.Err() == nil {
		l.mu.Lock()
		s, e, why := l.victim(lacking)
		if e == nil {
			l.mu.Unlock()
			return again
		}
		l.index.doom(e)
		dgst, size, age := l.index.digest(e), e.size, max(0, time.Since(time.Unix(0, e.used)))
		l.mu.Unlock()

		err := l.next.Delete(ctx, dgst)
		gone := err == nil || errors.Is(err, storage.ErrNotExist)
		l.mu.Lock()
		l.finish(s, e, gone)
		l.failed(err, gone)
		l.mu.Unlock()
		if !gone {
			return min(again, retryDelay)
		}
		lacking -= size
		if err == nil {
			l.opts.Metrics.evicted(why, size, age)
			l.opts.Logger.Debug("evicted", "digest", dgst, "bytes", size, "unused", age.Round(time.Second), "reason", string(why))
		}
	}
	return again
}

// lacking returns how many bytes have to go for the filesystem to have enough
// free, and when to ask it again.
func (l *Store) lacking() (int64, time.Duration) {
	if l.opts.MinFree <= 0 || l.opts.Free == nil {
		return 0, longest
	}
	free, err := l.opts.Free()
	switch {
	case err != nil:
		l.opts.Logger.Warn("cannot read how much space the filesystem has free", "error", err)
		return 0, farFreePoll
	case free < 2*l.opts.MinFree:
		return l.opts.MinFree + headroom(l.opts.MinFree) - free, freePoll
	default:
		return 0, farFreePoll
	}
}

// victim returns what has to go next and why, or nil. The caller holds the mutex.
func (l *Store) victim(lacking int64) (slot, *entry, reason) {
	s, e := l.index.oldest()
	if e == nil {
		return 0, nil, ""
	}
	if limit := l.opts.MaxBytes; limit > 0 {
		taken := l.taken() + l.waiting
		// What was used last is not given up for mere headroom: it may be
		// nearly as large as the limit.
		if taken > limit || taken > limit-headroom(limit) && l.index.idle > 1 {
			return s, e, forSize
		}
	}
	if lacking > 0 || l.roomWanted > 0 {
		return s, e, forFree
	}
	if l.opts.MaxUnused > 0 && time.Since(time.Unix(0, e.used)) > l.opts.MaxUnused {
		return s, e, forUnused
	}
	return 0, nil, ""
}

// finish ends the deletion of a doomed entry. One that could not be deleted
// counts as just used, so that others are tried before it. The caller holds the
// mutex.
func (l *Store) finish(s slot, e *entry, gone bool) {
	if gone {
		l.removed += e.size
		l.roomWanted = max(0, l.roomWanted-e.size)
	} else {
		e.used = time.Now().UnixNano()
	}
	l.index.reprieve(s, e, gone)
	l.broadcast()
}

// failed remembers whether deletions work, and logs when that changes. The
// caller holds the mutex.
func (l *Store) failed(err error, gone bool) {
	if gone {
		err = nil
	}
	if before := l.failure; before == nil && err != nil {
		l.opts.Logger.Error("cannot delete content; the limits of the store cannot be kept until this is mended", "error", err)
	} else if before != nil && err == nil {
		l.opts.Logger.Info("content can be deleted again")
	}
	l.failure, l.failedAt = err, time.Now()
}
