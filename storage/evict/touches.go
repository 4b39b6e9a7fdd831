package evict

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// touchInterval is how often the time of a blob's last use is recorded at most.
// It is a write to the filesystem, and a crash costs the order of one minute.
const touchInterval = time.Minute

// touches records when blobs were last used. It is one goroutine.
type touches struct {
	inventory *inventory
	record    func(ctx context.Context, dgst digest.Digest, used time.Time) error // may be nil if the inventory is not recording
	logger    *slog.Logger
}

// run records until its context ends.
func (t *touches) run(ctx context.Context) {
	ticker := time.NewTicker(touchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := t.write(ctx); err != nil && ctx.Err() == nil {
				t.logger.Warn("cannot record when content was last used, so it may be evicted too early after a restart. Check that the store is writable", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// write records every use since the last time. It continues after an error, and
// returns the first one. If the context ends, the rest is recorded the next time.
func (t *touches) write(ctx context.Context) error {
	i := t.inventory
	i.mu.Lock()
	slots := i.touches.take()
	i.mu.Unlock()
	var failure error
	for n, s := range slots {
		if err := context.Cause(ctx); err != nil {
			i.mu.Lock()
			for _, s := range slots[n:] {
				i.touches.add(s)
			}
			i.mu.Unlock()
			return err
		}
		i.mu.Lock()
		e := i.index.lru.at(s)
		there := e.phase == idle || e.phase == pinned // else it has been deleted since
		dgst, used := i.index.lru.digest(e), time.Unix(0, e.used)
		i.mu.Unlock()
		if !there {
			continue
		}
		if err := t.record(ctx, dgst, used); err != nil && !errors.Is(err, storage.ErrNotExist) && failure == nil {
			failure = err
		}
	}
	return failure
}
