package maintain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// EvictOptions are the limits of [Evict]. Without a limit it removes nothing.
type EvictOptions struct {
	MaxBytes  *int64         // of all content together; nil: no limit
	MaxUnused *time.Duration // since the last use of a blob; nil: no limit
	DryRun    bool           // report the same, and remove nothing
	// Caps bound the bytes of each owner of content; 0: no limit. Owner returns the owner of a blob; "": it
	// is not known. The least recently used content of an owner goes first, before that of all.
	Caps  map[string]int64
	Owner func(digest.Digest) string
	// Keeps, if set, reports whether a blob stays whatever the limits.
	Keeps func(digest.Digest) bool
	// Evicted, if set, is called for each blob that is removed.
	Evicted func(storage.Entry)
}

// EvictReport counts the content that [Evict] removed, and the rest.
type EvictReport struct {
	Removed, Left Amount
}

// Evict removes content, the least recently used first, until the rest is within
// the limits. Another process may be serving from the store: its readers read on,
// and the next pull downloads removed content again.
//
// Evict leaves content that cannot be removed, continues with the next, and returns
// one error for all of it in the end. Other errors are the context's, and those of
// listing the store; nothing is removed before the list is complete.
func Evict(ctx context.Context, store storage.Store, opts EvictOptions) (EvictReport, error) {
	var report EvictReport
	var entries []storage.Entry
	for entry, err := range store.All(ctx) {
		if err != nil {
			return EvictReport{}, err
		}
		entries = append(entries, entry)
		report.Left.add(entry.Size, 1)
	}
	slices.SortFunc(entries, func(a, b storage.Entry) int { return a.Used.Compare(b.Used) })
	e := eviction{EvictOptions: opts, store: store, report: &report}
	entries, err := e.evict(ctx, entries, e.overCaps(entries))
	if err == nil {
		now := time.Now()
		_, err = e.evict(ctx, entries, func(entry storage.Entry) bool {
			large := opts.MaxBytes != nil && report.Left.Bytes > *opts.MaxBytes
			return large || opts.MaxUnused != nil && now.Sub(entry.Used) > *opts.MaxUnused
		})
	}
	if err == nil && e.failure != nil {
		err = fmt.Errorf("storage: %d objects could not be removed, the first: %w", e.failures, e.failure)
	}
	return report, err
}

// eviction is an [Evict] that runs.
type eviction struct {
	EvictOptions

	store    storage.Store
	report   *EvictReport
	owned    map[string]int64 // bytes of owners with a cap that are left and not kept
	failures int
	failure  error // the first one
}

// overCaps returns whether a blob has to go because its owner has more than its cap; nil if no owner
// has one. Content that is kept counts too, unless it exceeds the cap by itself: no eviction changes that.
func (e *eviction) overCaps(entries []storage.Entry) func(storage.Entry) bool {
	kept := make(map[string]int64)
	for _, entry := range entries {
		owner := e.capped(entry.Digest)
		switch {
		case owner == "":
		case e.Keeps != nil && e.Keeps(entry.Digest):
			kept[owner] += entry.Size
		default:
			if e.owned == nil {
				e.owned = make(map[string]int64)
			}
			e.owned[owner] += entry.Size
		}
	}
	if e.owned == nil {
		return nil
	}
	return func(entry storage.Entry) bool {
		owner := e.capped(entry.Digest)
		if owner == "" {
			return false
		}
		used := kept[owner]
		if used > e.Caps[owner] {
			used = 0
		}
		return e.owned[owner]+used > e.Caps[owner]
	}
}

// capped returns the owner of a blob if it has a cap.
func (e *eviction) capped(dgst digest.Digest) string {
	if len(e.Caps) == 0 || e.Owner == nil {
		return ""
	}
	if owner := e.Owner(dgst); e.Caps[owner] > 0 {
		return owner
	}
	return ""
}

// evict removes those of blobs, the least recently used first, that have to go, and returns the others.
// Content that cannot be removed is among these: its bytes are still there, so a later blob goes in its place.
func (e *eviction) evict(ctx context.Context, entries []storage.Entry, has func(storage.Entry) bool) (left []storage.Entry, err error) {
	if has == nil {
		return entries, nil
	}
	for _, entry := range entries {
		if !has(entry) || e.Keeps != nil && e.Keeps(entry.Digest) {
			left = append(left, entry)
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		err := e.remove(ctx, e.store, entry)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			e.failures++
			e.failure = cmp.Or(e.failure, err)
			left = append(left, entry)
			continue
		}
		e.report.Left.add(entry.Size, -1)
		if owner := e.capped(entry.Digest); owner != "" {
			e.owned[owner] -= entry.Size
		}
		if err == nil { // else another process has removed it
			e.report.Removed.add(entry.Size, 1)
		}
	}
	return left, nil
}

func (o EvictOptions) remove(ctx context.Context, store storage.Store, entry storage.Entry) error {
	if !o.DryRun {
		if err := store.Delete(ctx, entry.Digest); err != nil {
			return err
		}
	}
	if o.Evicted != nil {
		o.Evicted(entry)
	}
	return nil
}

// add counts an object in, or with sign -1 out.
func (a *Amount) add(size, sign int64) {
	a.Objects += sign
	a.Bytes += sign * size
}
