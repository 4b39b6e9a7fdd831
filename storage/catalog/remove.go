package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// LinkedElsewhere returns those of some blobs that another repository than one possesses. It
// lists the keys of all records, as Repositories does.
func (c *Catalog) LinkedElsewhere(ctx context.Context, repo storage.RepoID, contents map[digest.Digest]bool) (map[digest.Digest]bool, error) {
	linked := make(map[digest.Digest]bool)
	for key, err := range c.records.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		other, sort, ok := splitKey(key)
		if !ok || sort.segment != linksSegment || other == repo {
			continue
		}
		if dgst := digestBelow(linksSegment, key); contents[dgst] {
			linked[dgst] = true
		}
	}
	return linked, nil
}

// DeleteDependent deletes the records of a repository that make none by themselves: documents,
// pulls and histories. It succeeds if there are none.
func (c *Catalog) DeleteDependent(ctx context.Context, repo storage.RepoID) error {
	for _, sort := range sorts {
		if sort.digest != nil {
			continue
		}
		prefix, err := repositoryKey(repo, sort.segment)
		if err != nil {
			return err
		}
		var keys []string // a list must not change while it is read
		for key, err := range c.records.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("storage: cannot list the records of %s: %w", repo, err)
			}
			keys = append(keys, key)
		}
		for _, key := range keys {
			if err := sort.delete(ctx, c, key); err != nil && !errors.Is(err, storage.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
