package namespace

import (
	"context"
	"net/url"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Links are places outside of the mirror where clients can read content by themselves, such as
// a bucket.
type Links interface {
	// Link returns a URL by which a client can read a blob of some size, or nil if there is
	// none.
	Link(ctx context.Context, dgst digest.Digest, size int64) *url.URL
	// Has reports whether the content is there with that size.
	Has(ctx context.Context, dgst digest.Digest, size int64) bool
}

// Elsewhere returns the URL of a place where a client can read a blob of at least some bytes,
// which this repository has the right to. It returns nil if there is no such place, and the
// errors of Blob. A nil URL says nothing about the blob.
func (n *Namespace) Elsewhere(ctx context.Context, repo string, dgst digest.Digest, least int64) (*url.URL, Outcome, error) {
	id := n.repoID(repo)
	if n.cache.links == nil {
		return nil, Outcome{}, nil
	}
	if !n.spec.Offline {
		if err := n.permit(ctx, id, dgst); err != nil {
			return nil, Outcome{}, err
		}
		if n.cache.negativeHit(ctx, blobKey(id, dgst)) != nil {
			return nil, Outcome{}, nil
		}
	}
	link, possessed := n.link(ctx, id, dgst)
	if !possessed || link.Size < least {
		return nil, Outcome{}, nil
	}
	target := n.cache.links.Link(ctx, dgst, link.Size)
	if target == nil {
		return nil, Outcome{}, nil
	}
	o, err := n.recheck(ctx, id, link)
	if err != nil {
		return nil, Outcome{}, err
	}
	if o.Cache == None {
		o.Cache = Hit
	}
	n.cache.ahead.asked(aheadKey{n.Key(), dgst})
	return target, o, nil
}

// sizeOf returns the size of a blob that a repository has a link to, if it can be served
// without an upstream: it is stored, or it is at another place.
func (c *Cache) sizeOf(ctx context.Context, link ocispec.Descriptor) (size int64, ok bool) {
	if info, err := c.store.Stat(ctx, link.Digest); err == nil && !damaged(link, info) {
		return info.Size, true
	}
	// A link without a size cannot be compared with an object.
	return link.Size, c.links != nil && link.Size > 0 && c.links.Has(ctx, link.Digest, link.Size)
}
