package namespace

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// recheckPause is how long an upstream that could not answer is not asked again about the
// same right.
const recheckPause = time.Minute

// A right may be withdrawn. If a namespace rechecks possession, a link that was proven
// longer ago than RecheckPossession makes the next use ask the upstream, with one HEAD for
// all that ask at once. The bytes were proven before, so the answer is enough here:
//
//	yes                          the link is as good as new
//	not found, denied            the link is removed, and the client gets the answer
//	unavailable, rate limited    served as a stale tag is, and asked again a minute later

// recheck makes sure that a repository still has the right to a stored blob. The outcome
// is that of a stale answer if the upstream cannot tell, and else zero.
func (n *Namespace) recheck(ctx context.Context, repo storage.RepoID, desc ocispec.Descriptor) (Outcome, error) {
	proven, old := n.oldRight(ctx, repo, desc.Digest)
	if !old {
		return Outcome{}, nil
	}
	key := lookupKey{repo, recheckBlob, oci.ByDigest(desc.Digest)}
	failure := n.cache.negativeHit(ctx, key) // of the last minute
	if failure == nil {
		_, _, failure = share(ctx, n, n.cache.access, key, n.staleFor(repo, blobProof, proven), func(ctx context.Context) (ocispec.Descriptor, error) {
			return desc, n.confirm(ctx, key, desc)
		})
	}
	if failure == nil {
		return Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, nil
	}
	// A refusal counts, whatever is answered from the cache otherwise.
	refused := errors.Is(failure, upstream.ErrNotFound) || errors.Is(failure, upstream.ErrDenied)
	if o, ok := n.stale(ctx, repo, blobProof, failure, proven); ok && !refused {
		return o, nil
	}
	return Outcome{}, failure
}

// oldRight reports whether the upstream has to confirm the right of a repository to a stored
// content, and when it did so last.
func (n *Namespace) oldRight(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (proven time.Time, old bool) {
	if n.spec.RecheckPossession <= 0 || n.spec.Offline {
		return time.Time{}, false
	}
	proven, err := n.cache.catalog.Proven(ctx, repo, dgst)
	// A missing link has been reported to the caller.
	return proven, err == nil && time.Since(proven) >= n.spec.RecheckPossession
}

// confirm asks the upstream whether a repository still has a blob, and records the
// answer.
func (n *Namespace) confirm(ctx context.Context, key lookupKey, desc ocispec.Descriptor) error {
	removed := n.cache.removals.of(key.repo)
	var err error
	if desc.MediaType != "" {
		_, err = n.spec.Upstreams.Head(ctx, key.repo.Name, oci.ByDigest(desc.Digest))
	} else {
		_, err = n.spec.Upstreams.StatBlob(ctx, key.repo.Name, desc.Digest)
	}
	err = upstream.Doubt(err)
	switch {
	case err == nil:
		n.cache.putLinkSince(ctx, key.repo, desc, removed)
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrDenied):
		n.logger.Info("a repository no longer has the right to serve content", "repository", key.repo.String(), "digest", desc.Digest, "error", err)
		n.forget(ctx, key.repo, desc.Digest)
	case upstream.ClassOf(err) != upstream.ClassOK:
		n.cache.negatives.Add(negativeKey{key.negative(), upstream.ClientOf(ctx)}, negative{err, len(err.Error()), time.Now().Add(recheckPause)})
	}
	return err
}

// forget removes the link of a repository to a blob.
func (n *Namespace) forget(ctx context.Context, repo storage.RepoID, dgst digest.Digest) {
	if err := n.cache.catalog.DeleteLink(ctx, repo, dgst); err != nil && !errors.Is(err, storage.ErrNotExist) {
		n.logger.Warn("cannot remove the record of a right that was withdrawn. Check the data directory", "repository", repo.String(), "digest", dgst, "error", err)
	}
}
