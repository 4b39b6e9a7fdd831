package evict

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/storage"
)

// ErrEvicting says that a mirror evicts from the shared store at the moment.
var ErrEvicting = errors.New("evict: a mirror is evicting from the bucket, or it stopped without releasing its lease")

// Collection is one eviction from a shared store.
type Collection struct {
	// MaxBytes and MaxUnused are limits of content alone; nil: no limit.
	MaxBytes  *int64
	MaxUnused *time.Duration
	// Chosen is called with the blobs that have to go. If it returns an error, none goes.
	Chosen func(contents []storage.Entry, grace time.Duration) error
	// Removed is called for each blob that is gone.
	Removed func(storage.Entry)
}

// Collect evicts what is over the limits of a collection at its start, and returns how many
// blobs and bytes are left then. It needs the lease, and takes as long as the grace.
// Mirrors that use a blob in the meantime keep it. Limits of the store in opts do not count; caps of
// blocks do.
func Collect(ctx context.Context, opts SharedOptions, c Collection) (objects, bytes int64, err error) {
	opts.MaxBytes, opts.MaxUnused = 0, 0
	s := newShared(opts)
	t := newTenure(s)
	t.removing = c.Removed
	if err := t.build(ctx); err != nil {
		return 0, 0, fail("listing the content", err)
	}
	if err := t.merge(ctx); err != nil {
		return 0, 0, err
	}
	t.hold()
	err = t.collect(ctx, c)
	return int64(len(t.inventory.index.lru.byKey)), t.inventory.index.ledger.stored, err
}

// collect chooses once, and removes once.
func (t *tenure) collect(ctx context.Context, c Collection) error {
	var chosen []storage.Entry
	x, now := &t.inventory.index, time.Now()
	t.spares = now.UnixNano()
	left := x.ledger.stored
	var owned [maxOwners]int64 // bytes that leave
	for {
		s, e := x.overCap(&owned)
		why := forBlock
		if e == nil {
			if s, e = x.lru.oldest(); e == nil {
				break
			}
			why = c.reason(e, left, now)
		}
		if why == "" {
			break
		}
		x.beginDelete(s)
		t.leaving[s] = leaving{why: why}
		left -= e.size
		owned[e.owner] += e.size
		chosen = append(chosen, x.entry(s))
	}
	if err := c.Chosen(chosen, t.opts.grace()); err != nil || len(chosen) == 0 {
		return err
	}
	held, err := t.opts.Lease.Hold(ctx, leaseIntervals*t.opts.Interval)
	if err == nil && !held {
		err = ErrEvicting
	}
	if err != nil {
		return err
	}
	return t.tend(ctx, time.Now().Add(leaseIntervals*t.opts.Interval), t.removeChosen)
}

// reason returns the reason why a blob has to go if that many bytes are left, or nothing.
func (c *Collection) reason(e *entry, left int64, now time.Time) reason {
	switch {
	case c.MaxUnused != nil && now.Sub(time.Unix(0, e.used)) > *c.MaxUnused:
		return forUnused
	case c.MaxBytes != nil && left > *c.MaxBytes:
		return forSize
	default:
		return ""
	}
}

// removeChosen removes all that was chosen, in as many plans as that takes.
func (t *tenure) removeChosen(ctx context.Context) error {
	for len(t.leaving) > 0 {
		if err := t.confirm(ctx); err != nil {
			return fail("reading the plan", err)
		}
		if err := t.writePlan(ctx, false); err != nil {
			return fail("writing the plan", err)
		}
		select {
		case <-time.After(t.opts.Interval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := t.remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

// entry returns a content of the index.
func (x *index) entry(s slot) storage.Entry {
	e := x.lru.at(s)
	return storage.Entry{Info: storage.Info{Digest: x.lru.digest(e), Size: e.size}, Used: time.Unix(0, e.used)}
}

// fail wraps a failure with the work that it ended.
func fail(work string, err error) error { return fmt.Errorf("%s: %w", work, err) }
