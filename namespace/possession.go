package namespace

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// Content is stored once, whichever repository it came from. That its bytes are
// here does not mean that the readers of another repository may have them. A link
// means that: it is written when the repository's own upstream has delivered the
// content or has shown parts of it (proof.go). This file holds the questions and the
// records; the bytes come from elsewhere (manifest.go, blob.go).

// has reports whether a manifest is stored and the repository may serve it.
func (n *Namespace) has(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, bool) {
	desc, err := n.cache.catalog.Link(ctx, repo, dgst)
	if err != nil || desc.MediaType == "" {
		return desc, false // a link without a media type is that of a blob
	}
	info, err := n.cache.store.Stat(ctx, dgst)
	// Where each client has rights of its own, the time of a recall would tell a client without
	// them that the manifest is known.
	if errors.Is(err, storage.ErrNotExist) && !n.spec.OnBehalf && n.cache.recall(ctx, repo, desc) {
		info, err = n.cache.store.Stat(ctx, dgst)
	}
	if err != nil || damaged(desc, info) {
		return desc, false
	}
	desc.Size = info.Size
	return desc, true
}

// damaged reports whether stored content has another size than a link to it says.
// Such content was cut by a failing disk, or changed by another program. A size of 0
// says nothing: small content is compared with its digest when it is read.
func damaged(link ocispec.Descriptor, stored storage.Info) bool {
	return link.Size != 0 && link.Size != stored.Size
}

// link returns the record that a repository possesses a blob. It reports false if
// there is none.
func (n *Namespace) link(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, bool) {
	link, err := n.cache.catalog.Link(ctx, repo, dgst)
	return link, err == nil
}

// statBlob asks the upstream for a repository's blob. The Size is -1 if the upstream
// does not tell it.
func (n *Namespace) statBlob(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, error) {
	key := blobKey(repo, dgst)
	desc, _, err := share(ctx, n, n.cache.access, key, nil, func(ctx context.Context) (ocispec.Descriptor, error) {
		if err := n.refusedElsewhere(ctx, key); err != nil {
			return ocispec.Descriptor{}, err
		}
		desc, err := n.spec.Upstreams.StatBlob(ctx, repo.Name, dgst)
		n.noteRight(ctx, repo, blobProof, "", err)
		n.tellRefusal(ctx, key, err)
		n.rememberNegative(ctx, key, err)
		return desc, err
	})
	return desc, err
}

func blobKey(repo storage.RepoID, dgst digest.Digest) lookupKey {
	return lookupKey{repo, statBlob, oci.ByDigest(dgst)}
}
