package namespace

import (
	"context"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/storage"
)

// removals tells work in the background that images of its repository have been removed since it
// began: it leaves nothing behind then. Of the repositories, those of the last removals are remembered.
type removals struct {
	count atomic.Uint64
	last  *bounded.Cache[storage.RepoID, uint64]
}

func newRemovals() *removals {
	return &removals{last: bounded.New(maxRemembered, maxRememberedBytes, func(repo storage.RepoID, _ uint64) int {
		return len(repo.Namespace) + len(repo.Name)
	})}
}

// note notes that a removal from a repository begins or has ended.
func (r *removals) note(repo storage.RepoID) { r.last.Add(repo, r.count.Add(1)) }

// of returns a number that changes with each removal from a repository.
func (r *removals) of(repo storage.RepoID) uint64 {
	if r.count.Load() == 0 { // on most mirrors
		return 0
	}
	n, _ := r.last.Get(repo)
	return n
}

// unchanged returns a function that reports whether no image of a repository has been removed since.
func (r *removals) unchanged(repo storage.RepoID) func() bool {
	before := r.of(repo)
	return func() bool { return r.of(repo) == before }
}

// putLinkSince is putLink, unless images of the repository have been removed since a moment, for which
// removals.of returned before.
func (c *Cache) putLinkSince(ctx context.Context, repo storage.RepoID, desc ocispec.Descriptor, before uint64) {
	if c.removals.of(repo) != before {
		return
	}
	c.putLink(ctx, repo, desc)
	// A removal that began meanwhile may have looked for the link before it was there. If it is
	// another one's by now, the next pull proves the right again.
	if c.removals.of(repo) != before {
		_ = c.catalog.DeleteLink(context.WithoutCancel(ctx), repo, desc.Digest)
	}
}
