package evict

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/weirhq/weir/storage/spool"
)

const (
	// evictionPatience is how long a download waits until enough has been
	// deleted. Its clients wait with it, so it is short: on a disk that takes
	// longer, the content is streamed past the cache.
	evictionPatience = time.Second
	// loadPatience is for how long after the start a download waits for the
	// index.
	loadPatience = 2 * time.Second
)

// Reserve implements [spool.Quota].
func (l *Store) Reserve(n int64, wait bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.MaxBytes <= 0 || n <= 0 {
		l.reserved += n
		return nil
	}
	// Who waits already comes first.
	if err := l.refuse(n + l.waiting); err != nil {
		return err
	}
	patience := time.Now().Add(evictionPatience)
	for !l.ready || l.taken()+n > l.opts.MaxBytes {
		if !wait {
			return fmt.Errorf("%w for %s (blob_store.fs.max_size)", spool.ErrBusy, iec(n))
		}
		until := patience
		if !l.ready {
			until = l.started.Add(loadPatience)
		}
		l.waiting += n
		inTime := l.wait(until)
		l.waiting -= n
		if err := l.refuse(n); err != nil {
			return err
		}
		if !inTime {
			return fmt.Errorf("%w: nothing was deleted in time to make room for %s (blob_store.fs.max_size)", spool.ErrNoSpace, iec(n))
		}
	}
	l.reserved += n
	l.check()
	return nil
}

// refuse returns why n bytes cannot be set aside, however much is evicted.
func (l *Store) refuse(n int64) error {
	free := l.opts.MaxBytes - l.reserved - l.index.pinned
	switch {
	case l.closed:
		return fmt.Errorf("%w: the store is being closed", spool.ErrNoSpace)
	case !l.ready && !time.Now().Before(l.started.Add(loadPatience)):
		return fmt.Errorf("%w: how much is stored is not known yet; the index is still being loaded", spool.ErrNoSpace)
	case n > free:
		return fmt.Errorf("%w: %s wanted, of %s (blob_store.fs.max_size) %s are taken by running downloads and %s by what is being read",
			spool.ErrNoSpace, iec(n), iec(l.opts.MaxBytes), iec(l.reserved), iec(l.index.pinned))
	case l.stuck() && l.taken()+n > l.opts.MaxBytes:
		return fmt.Errorf("%w: nothing can be deleted to make room for %s: %w", spool.ErrNoSpace, iec(n), l.failure)
	default:
		return nil
	}
}

// Release implements [spool.Quota].
func (l *Store) Release(n int64) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= n
	if l.waiting > 0 {
		l.broadcast()
	}
}

// MakeRoom implements [spool.Quota].
func (l *Store) MakeRoom(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	evictable := l.index.stored - l.index.pinned
	if !l.ready || l.closed || l.stuck() || n+l.roomWanted > evictable {
		return false
	}
	l.roomWanted += n
	target := l.removed + l.roomWanted
	patience := time.Now().Add(evictionPatience)
	for l.removed < target {
		if !l.wait(patience) || l.closed || l.stuck() {
			l.roomWanted = max(0, l.roomWanted-n)
			return false
		}
	}
	return true
}

// wait waits, without the mutex, for a change, and reports false when there was
// none in time.
func (l *Store) wait(until time.Time) bool {
	changed := l.changed
	signal(l.wake)
	l.mu.Unlock()
	defer l.mu.Lock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return false
	}
}

// stuck reports whether a deletion has just failed. The caller holds the mutex.
func (l *Store) stuck() bool { return l.failure != nil && time.Since(l.failedAt) < retryDelay }

// taken is how many bytes count against MaxBytes. The caller holds the mutex.
func (l *Store) taken() int64 { return l.index.stored + l.reserved }

// check wakes the evictor where the headroom is used up. The caller holds the
// mutex.
func (l *Store) check() {
	if limit := l.opts.MaxBytes; limit > 0 && l.taken() > limit-headroom(limit) {
		signal(l.wake)
	}
}

func iec(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
