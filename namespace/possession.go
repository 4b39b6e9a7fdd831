package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// maxInspected bounds what is read of a stored content to learn what kind of
// manifest it is, in bytes. What is larger is fetched like what is not stored,
// and then the upstream's limit counts.
const maxInspected = 32 << 20

// has reports whether a manifest is stored and this repository possesses it.
func (n *Namespace) has(ctx context.Context, id storage.Repository, dgst digest.Digest) (ocispec.Descriptor, bool) {
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
func (n *Namespace) adopt(ctx context.Context, id storage.Repository, named ocispec.Descriptor) (ocispec.Descriptor, bool) {
	if own, ok := n.has(ctx, id, named.Digest); ok {
		return own, true
	}
	desc, err := n.cache.inspect(ctx, named)
	if err != nil {
		return desc, false
	}
	n.cache.putLink(ctx, id, desc)
	n.cache.arrived(ctx, id, desc.Digest)
	return desc, true
}

// inspect describes a stored manifest by its own words. What a header said of
// it counts only where the manifest says nothing, and a header's length never.
func (c *Cache) inspect(ctx context.Context, named ocispec.Descriptor) (ocispec.Descriptor, error) {
	obj, err := c.store.Open(ctx, named.Digest)
	if err != nil {
		return named, err
	}
	defer obj.Content.Close()
	if obj.Size > maxInspected {
		return named, fmt.Errorf("%s has %d bytes, which no manifest has", named.Digest, obj.Size)
	}
	var document struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.NewDecoder(obj.Content).Decode(&document); err != nil {
		return named, fmt.Errorf("%s is no manifest: %w", named.Digest, err)
	}
	named.Size = obj.Size
	if document.MediaType != "" {
		named.MediaType = document.MediaType
	}
	if named.MediaType == "" {
		return named, fmt.Errorf("nobody says what kind of manifest %s is", named.Digest)
	}
	return named, nil
}

// confirm looks for a manifest that is stored, but not known to be this
// repository's, and asks the upstream whether it is. It returns nil when the
// manifest has to be fetched.
func (n *Namespace) confirm(ctx context.Context, id storage.Repository, dgst digest.Digest) (*found, error) {
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
