package namespace

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// A namespace may keep its content to itself. While one does, a repository without a link
// to a blob uses bytes that are stored or on their way only like this:
//
//	stored              if upstreams of its own namespace, or of one that shares, have
//	                    delivered the blob once; with the proof of proof.go
//	being downloaded    for a repository of its own namespace; with the same proof
//
// In all other cases the blob counts as not stored. The repository downloads it from its
// own upstreams, whether others have it or not, so that neither the answer nor the
// requests upstream tell that it is here. Manifests are fetched whole in any case.
//
// A delivery is all bytes of a blob, verified by their digest. It is recorded while a
// namespace keeps its content. A missing record means that there was none: it costs a
// download, and lends nothing. A record stays true whatever the configuration becomes: it
// names the namespace that delivered, and the namespaces in force say which of them share.
// A namespace that was removed keeps its content, until it comes back and shares it.

// lenders holds the keys of the namespaces that share their content.
type lenders []string

// lendAs puts the lending that namespaces want in force, for blobs that are opened from
// now on, whatever table a request or a warming began with.
func (c *Cache) lendAs(specs []Spec) {
	shared, keeping := make(lenders, 0, len(specs)), make([]string, 0, len(specs))
	for _, spec := range specs {
		if spec.Unshared {
			keeping = append(keeping, spec.space())
		} else {
			shared = append(shared, spec.space())
		}
	}
	// If all share, nothing has to be asked or recorded.
	if c.remember(keeping, shared) == 0 {
		c.lenders.Store(nil)
		return
	}
	c.lenders.Store(&shared)
}

// remember records which namespaces keep their content to themselves, and returns how
// many there are: those that want it, and those that wanted it when they were removed. If
// the record cannot be read, it may name one.
func (c *Cache) remember(keeping, shared []string) int {
	before, err := c.catalog.Keeping(context.Background())
	if err != nil {
		c.logger.Warn("cannot read which repository blocks do not share their content, so no block uses content of a block that is no longer configured. Check the data directory", "error", err)
		return len(keeping) + 1
	}
	for _, key := range before {
		if !slices.Contains(shared, key) {
			keeping = append(keeping, key)
		}
	}
	slices.Sort(keeping)
	keeping = slices.Compact(keeping)
	if slices.Equal(keeping, before) {
		return len(keeping)
	}
	if err := c.catalog.PutKeeping(context.Background(), keeping); err != nil {
		c.logger.Warn("cannot record which repository blocks do not share their content. Check the data directory before you remove such a block", "error", err)
	}
	return len(keeping)
}

// lent returns the question whether stored bytes may be used for a repository, or nil if
// all namespaces share their content.
func (c *Cache) lent(repo storage.RepoID, dgst digest.Digest) func(context.Context) bool {
	shared := c.lenders.Load()
	if shared == nil {
		return nil
	}
	return func(ctx context.Context) bool {
		// With a link the content is the repository's own.
		if _, err := c.catalog.Link(ctx, repo, dgst); err == nil || c.delivered(ctx, repo.Namespace, dgst) {
			return true
		}
		for _, key := range *shared {
			if key != repo.Namespace && c.delivered(ctx, key, dgst) {
				return true
			}
		}
		return false
	}
}

// delivered reports whether upstreams of a namespace are known to have delivered a blob.
func (c *Cache) delivered(ctx context.Context, namespace string, dgst digest.Digest) bool {
	return c.catalog.Delivered(ctx, namespace, dgst) == nil
}

// putDelivery records that the upstreams of a repository's namespace have delivered all
// bytes of a blob.
func (c *Cache) putDelivery(ctx context.Context, repo storage.RepoID, dgst digest.Digest) {
	if c.lenders.Load() != nil {
		recorded(c.records, c.catalog.PutDelivery(ctx, repo.Namespace, dgst), repo, "digest", dgst)
	}
}
