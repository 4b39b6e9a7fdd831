package namespace

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// Content is stored once, whichever repository it came from. That its bytes are
// here does not mean that the readers of another repository may have them. A link
// means that: it is written when the repository's own upstream has delivered the
// content or has confirmed that it has it. This file holds the questions and the
// records; the bytes come from elsewhere (manifest.go, blob.go).

// has reports whether a manifest is stored and the repository may serve it.
func (n *Namespace) has(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, bool) {
	desc, err := n.cache.catalog.Link(ctx, repo, dgst)
	if err != nil || desc.MediaType == "" {
		return desc, false // a link without a media type is that of a blob
	}
	info, err := n.cache.store.Stat(ctx, dgst)
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

// linkExisting links a stored manifest to a repository whose upstream has just
// named its digest, which proves that the repository may serve it. It returns the
// manifest's descriptor, or false if the manifest has to be fetched.
func (n *Namespace) linkExisting(ctx context.Context, repo storage.RepoID, named ocispec.Descriptor) (ocispec.Descriptor, bool) {
	// The repository's own record has the media type that its upstream gave.
	if own, ok := n.has(ctx, repo, named.Digest); ok {
		return own, true
	}
	desc, err := n.cache.inspect(ctx, named, n.spec.MaxManifest)
	if err != nil {
		return desc, false
	}
	n.cache.putLink(ctx, repo, desc)
	n.cache.book.Stored(ctx, repo, desc.Digest)
	return desc, true
}

// inspect returns the descriptor of a stored manifest. The media type of named,
// which a header gave, counts only if the manifest has none; its size never does.
// It returns an error if the content is larger than limit. The caller then fetches
// the manifest, and the upstream's client reports the limit.
func (c *Cache) inspect(ctx context.Context, named ocispec.Descriptor, limit int64) (ocispec.Descriptor, error) {
	obj, err := c.store.Open(ctx, named.Digest)
	if err != nil {
		return named, err
	}
	defer obj.Content.Close()
	body, err := oci.ReadManifest(obj.Content, limit)
	if err != nil {
		return named, err
	}
	if named.MediaType, err = oci.ManifestType(body, named.MediaType); err != nil {
		return named, fmt.Errorf("%s is no manifest: %w", named.Digest, err)
	}
	named.Size = obj.Size
	return named, nil
}

// link returns the record that a repository possesses a content. It reports false if
// there is none.
func (n *Namespace) link(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, bool) {
	link, err := n.cache.catalog.Link(ctx, repo, dgst)
	return link, err == nil
}

// verifyAccess asks the upstream whether a repository has a blob. The Size is -1
// if the upstream does not tell it.
func (n *Namespace) verifyAccess(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, error) {
	key := blobKey(repo, dgst)
	desc, _, err := share(ctx, n, n.cache.access, key, func(ctx context.Context) (ocispec.Descriptor, error) {
		desc, err := n.spec.Upstreams.StatBlob(ctx, repo.Name, dgst)
		n.rememberNegative(key, err)
		return desc, err
	})
	return desc, err
}

func blobKey(repo storage.RepoID, dgst digest.Digest) lookupKey {
	return lookupKey{repo, statBlob, oci.ByDigest(dgst)}
}
