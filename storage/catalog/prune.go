package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// PruneOptions configure [Catalog.Prune].
type PruneOptions struct {
	// Gone reports whether a blob is not stored any more.
	Gone   func(ctx context.Context, dgst digest.Digest) (bool, error)
	DryRun bool // report the same, and remove nothing
	// Keeper, if set, lists the records with their ages. Then documents of repositories
	// without a tag and a link go too, if they were not used for Stale.
	Keeper storage.RecordKeeper
	Stale  time.Duration
}

// PruneReport counts the records that [Catalog.Prune] removed.
type PruneReport struct {
	Tags, Links  int
	Repositories int // that have no tag and no link left
	Documents    int // of repositories that had neither
}

// Prune removes the tags and links whose content is gone. If a repository loses
// its last tag and link by that, its documents go too, and it leaves the result
// of Repositories. Records that cannot be read count as absent, and go.
//
// If Prune runs concurrently with another catalog on the same records, a removed link stays
// in the memory of that catalog, which does not write it again: once that process
// has ended, an upstream is asked for that right again.
func (c *Catalog) Prune(ctx context.Context, opts PruneOptions) (PruneReport, error) {
	var report PruneReport
	var repo storage.RepoID
	var records []record // of repo; records of one repository are listed in one run
	prune := func() error { return c.pruneRepository(ctx, records, opts, &report) }
	for entry, err := range c.entries(ctx, opts.Keeper) {
		if err != nil {
			return report, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		next, sort, ok := splitKey(entry.Key)
		if !ok { // no catalog made it
			continue
		}
		if next != repo { // all records of repo have been listed
			if err := prune(); err != nil {
				return report, err
			}
			repo, records = next, nil
		}
		records = append(records, record{entry.Key, sort, entry.Used})
	}
	return report, prune()
}

// entries lists all records. Without a keeper they have no ages.
func (c *Catalog) entries(ctx context.Context, keeper storage.RecordKeeper) iter.Seq2[storage.RecordEntry, error] {
	if keeper != nil {
		return keeper.AllRecords(ctx)
	}
	return func(yield func(storage.RecordEntry, error) bool) {
		for key, err := range c.records.List(ctx, "") {
			if !yield(storage.RecordEntry{Key: key}, err) {
				return
			}
		}
	}
}

// record is a record as it is listed.
type record struct {
	key string
	sort
	used time.Time
}

func (c *Catalog) pruneRepository(ctx context.Context, records []record, opts PruneOptions, report *PruneReport) error {
	var dependent []record // kept as long as the repository has a tag or a link
	var alive, removed int
	for _, r := range records {
		if r.digest == nil {
			dependent = append(dependent, r)
			continue
		}
		gone, err := c.gone(ctx, r, opts)
		if err != nil {
			return err
		}
		if !gone {
			alive++
			continue
		}
		if err := c.remove(ctx, r, opts); err != nil {
			return err
		}
		// Records of a whole namespace make no repository.
		if r.count != nil {
			removed++
			*r.count(report)++
		}
	}
	if alive > 0 {
		return nil
	}
	if removed > 0 {
		report.Repositories++
	}
	for _, r := range dependent {
		// A client may have listed a repository that it will pull from.
		if removed == 0 && (opts.Keeper == nil || time.Since(r.used) < opts.Stale) {
			continue
		}
		if err := c.remove(ctx, r, opts); err != nil {
			return err
		}
		if removed == 0 {
			report.Documents++
		}
	}
	return nil
}

// gone reports whether the content of a record is gone.
func (c *Catalog) gone(ctx context.Context, r record, opts PruneOptions) (bool, error) {
	dgst, err := r.digest(ctx, c, r.key)
	if err != nil {
		return false, err
	}
	// A record that cannot be read, or has no valid digest, names no content.
	if storage.ValidateDigest(dgst) != nil {
		return true, nil
	}
	return opts.Gone(ctx, dgst)
}

// digestOfTag returns the digest of a tag's record; "" if it cannot be read.
func (c *Catalog) digestOfTag(ctx context.Context, key string) (digest.Digest, error) {
	tag, err := c.tags.get(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		return "", nil
	}
	return tag.Descriptor.Digest, err
}

func (c *Catalog) remove(ctx context.Context, r record, opts PruneOptions) error {
	if opts.DryRun {
		return nil
	}
	if err := r.delete(ctx, c, r.key); err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	return nil
}
