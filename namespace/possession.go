package namespace

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// has reports whether a manifest is stored and this repository possesses it.
func (n *Namespace) has(ctx context.Context, id storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, bool) {
	desc, err := n.cache.catalog.Link(ctx, id, dgst)
	if err != nil || desc.MediaType == "" {
		return desc, false // a link without a media type is that of a blob
	}
	info, err := n.cache.store.Stat(ctx, dgst)
	desc.Size = info.Size
	return desc, err == nil
}

// adopt makes a stored content the manifest of a repository whose upstream has
// just named it as one: that answer proved the repository's right to it. It
// returns its descriptor, or false where the manifest has to be fetched.
func (n *Namespace) adopt(ctx context.Context, id storage.RepoID, named ocispec.Descriptor) (ocispec.Descriptor, bool) {
	if own, ok := n.has(ctx, id, named.Digest); ok {
		return own, true
	}
	desc, err := n.cache.inspect(ctx, named, n.spec.MaxManifest)
	if err != nil {
		return desc, false
	}
	n.cache.putLink(ctx, id, desc)
	n.cache.arrived(ctx, id, desc.Digest)
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
	if named.MediaType == "" {
		return named, fmt.Errorf("%s has no media type", named.Digest)
	}
	return named, nil
}

// confirm looks for a manifest that is stored, but not known to be this
// repository's, and asks the upstream whether it is. It returns nil when the
// manifest has to be fetched.
func (n *Namespace) confirm(ctx context.Context, id storage.RepoID, dgst digest.Digest) (*found, error) {
	if _, err := n.cache.store.Stat(ctx, dgst); err != nil {
		return nil, nil
	}
	desc, err := n.spec.Upstreams.Head(ctx, id.Name, oci.ByDigest(dgst))
	if errors.Is(err, upstream.ErrHeadUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	desc.Digest = dgst // whatever the header says
	own, ok := n.adopt(ctx, id, desc)
	if !ok {
		return nil, nil
	}
	return &found{Outcome: Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, desc: own}, nil
}
