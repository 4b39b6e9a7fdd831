package catalog

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// DeleteLink deletes one link, as Prune does.
func (c *Catalog) DeleteLink(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	key, err := linkKey(repo, dgst)
	if err != nil {
		return err
	}
	return c.links.delete(ctx, key)
}
