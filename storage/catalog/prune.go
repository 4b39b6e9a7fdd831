package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// PruneOptions configure [Catalog.Prune].
type PruneOptions struct {
	// Gone reports whether a content is not stored any more.
	Gone   func(ctx context.Context, dgst digest.Digest) (bool, error)
	DryRun bool // report the same, and remove nothing
}

// PruneReport counts the records that [Catalog.Prune] removed.
type PruneReport struct {
	Tags, Links  int
	Repositories int // that have no tag and no link left
}

// Prune removes the tags and links whose content is gone. If a repository loses
// its last tag and link by that, its documents go too, and it leaves the result
// of Repositories. Records that cannot be read count as absent, and go.
//
// If Prune runs beside another catalog on the same records, a removed link stays
// in the memory of that catalog, which does not write it again: once that process
// has ended, an upstream is asked for that right again.
func (c *Catalog) Prune(ctx context.Context, opts PruneOptions) (PruneReport, error) {
	var report PruneReport
	var repo storage.RepoID
	var records []record // of repo; records of one repository are listed in one run
	prune := func() error { return c.pruneRepository(ctx, records, opts, &report) }
	for key, err := range c.records.List(ctx, "") {
		if err != nil {
			return report, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		next, sort, ok := splitKey(key)
		if !ok { // no catalog made it
			continue
		}
		if next != repo { // all records of repo have been listed
			if err := prune(); err != nil {
				return report, err
			}
			repo, records = next, nil
		}
		records = append(records, record{key, sort})
	}
	return report, prune()
}

// record is a record as it is listed.
type record struct {
	key string
	sort
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
		removed++
		*r.count(report)++
	}
	// A repository that had neither tag nor link before is none of this run's.
	if alive > 0 || removed == 0 {
		return nil
	}
	report.Repositories++
	for _, r := range dependent {
		if err := c.remove(ctx, r, opts); err != nil {
			return err
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
