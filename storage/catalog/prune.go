package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// PruneOptions say what [Catalog.Prune] takes for gone.
type PruneOptions struct {
	// Gone reports whether a content is not stored any more.
	Gone   func(ctx context.Context, dgst digest.Digest) (bool, error)
	DryRun bool // remove nothing, and report what would be removed
}

// PruneReport is what [Catalog.Prune] removed.
type PruneReport struct {
	Tags, Links  int
	Repositories int // that have no tag and no link left
}

// Prune removes the tags and links whose content is gone, and the documents of
// repositories that lose their last tag and link by that: they leave the result
// of Repositories. Records that cannot be understood count as absent, and go
// too.
//
// A link that is removed behind the back of another catalog on the same records
// stays in the memory of that one, which therefore does not write it again: once
// that process has ended, an upstream is asked for that right again.
func (c *Catalog) Prune(ctx context.Context, opts PruneOptions) (PruneReport, error) {
	var report PruneReport
	var repo storage.RepoID
	var keys []string // of repo's records, which are listed one after the other
	prune := func() error { return c.pruneRepository(ctx, keys, opts, &report) }
	for key, err := range c.records.List(ctx, "") {
		if err != nil {
			return report, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		next, _, ok := splitKey(key)
		if !ok {
			continue
		}
		if next != repo {
			if err := prune(); err != nil {
				return report, err
			}
			repo, keys = next, nil
		}
		keys = append(keys, key)
	}
	return report, prune()
}

func (c *Catalog) pruneRepository(ctx context.Context, keys []string, opts PruneOptions, report *PruneReport) error {
	var documents []string
	var alive, removed int
	for _, key := range keys {
		var dgst digest.Digest
		var count *int
		var remove func(context.Context, string) error
		switch _, sort, _ := splitKey(key); sort {
		case documentsSegment:
			documents = append(documents, key)
			continue
		case linksSegment:
			dgst, count, remove = digestOfLink(key), &report.Links, c.links.delete
		case tagsSegment:
			tag, err := c.tags.get(ctx, key)
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				return err
			}
			dgst, count, remove = tag.Descriptor.Digest, &report.Tags, c.tags.delete
		}
		// What is no digest names no content.
		if storage.ValidateDigest(dgst) == nil {
			if gone, err := opts.Gone(ctx, dgst); err != nil {
				return err
			} else if !gone {
				alive++
				continue
			}
		}
		if err := opts.remove(ctx, key, remove); err != nil {
			return err
		}
		removed++
		*count++
	}
	if alive > 0 || removed == 0 {
		return nil
	}
	report.Repositories++
	for _, key := range documents {
		if err := opts.remove(ctx, key, c.documents.delete); err != nil {
			return err
		}
	}
	return nil
}

func (o PruneOptions) remove(ctx context.Context, key string, remove func(context.Context, string) error) error {
	if o.DryRun {
		return nil
	}
	if err := remove(ctx, key); err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	return nil
}
