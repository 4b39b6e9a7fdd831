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
	MaxUnused *time.Duration // since the last use of a content; nil: no limit
	DryRun    bool           // report the same, and remove nothing
	// Keeps, if set, reports whether a content stays whatever the limits.
	Keeps func(digest.Digest) bool
	// Evicted, if set, is called for each content that is removed.
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
	now := time.Now()
	var failures int
	var failure error
	for _, entry := range entries {
		large := opts.MaxBytes != nil && report.Left.Bytes > *opts.MaxBytes
		unused := opts.MaxUnused != nil && now.Sub(entry.Used) > *opts.MaxUnused
		if !large && !unused {
			break // all others have been used since
		}
		if opts.Keeps != nil && opts.Keeps(entry.Digest) {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return report, err
		}
		if err := opts.remove(ctx, store, entry); errors.Is(err, storage.ErrNotExist) {
			report.Left.add(entry.Size, -1) // another process has removed it
			continue
		} else if err != nil {
			failures++ // its bytes are still there, so a later content goes in its place
			failure = cmp.Or(failure, err)
			continue
		}
		report.Left.add(entry.Size, -1)
		report.Removed.add(entry.Size, 1)
	}
	if failure != nil {
		failure = fmt.Errorf("storage: %d contents could not be removed, the first: %w", failures, failure)
	}
	return report, failure
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
