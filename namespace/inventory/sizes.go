package inventory

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// The size of an image is that of its manifest and of the parts that the manifest names, cached or
// not. The size of an index is that of its own manifest and of the images of its cached manifests:
// the parts of others are not known. Each blob counts once.

const (
	// maxPlatforms bounds the manifests below an index that are looked at for its size. The largest
	// indexes of today have about 60: 30 platforms, each with an attestation.
	maxPlatforms = 100
	// maxPlatformBytes bounds the bytes of them. A usual one has some kilobytes.
	maxPlatformBytes = 4 << 20
	// maxOutlines and maxOutlineBytes bound the outlines in memory. Usual ones take a kilobyte.
	maxOutlines     = 4096
	maxOutlineBytes = 4 << 20
)

// content is a content of the size that a manifest declares.
type content struct {
	digest digest.Digest
	size   int64
}

func contentOf(desc ocispec.Descriptor) content { return content{desc.Digest, desc.Size} }

// outline has the blobs that a manifest names. It never changes, as the manifest.
type outline struct {
	size      int64     // of the manifest
	contents  []content // the manifest, its configuration, layers and blobs
	manifests []content // of an index
}

func outlineOf(dgst digest.Digest, size int64, links oci.Links) *outline {
	o := &outline{size: size, contents: []content{{dgst, size}}}
	if links.Config != nil {
		o.contents = append(o.contents, contentOf(*links.Config))
	}
	for _, part := range slices.Concat(links.Layers, links.Blobs) {
		o.contents = append(o.contents, contentOf(part))
	}
	for _, one := range links.Manifests {
		o.manifests = append(o.manifests, contentOf(one))
	}
	return o
}

func newOutlines() *bounded.Cache[digest.Digest, *outline] {
	return bounded.New(maxOutlines, maxOutlineBytes, func(_ digest.Digest, o *outline) int {
		const one = 128 // a digest of SHA-256, and its place in the list
		return (len(o.contents) + len(o.manifests)) * one
	})
}

// outline returns the outline of a stored manifest of at most limit bytes. It returns an error that
// matches ErrNotExist if there is none, or if the content is no manifest.
func (v *Inventory) outline(ctx context.Context, dgst digest.Digest, limit int64) (*outline, error) {
	if o, ok := v.outlines.Get(dgst); ok && o.size <= limit {
		return o, nil
	}
	body, err := v.read(ctx, dgst, limit)
	if err != nil {
		return nil, err
	}
	links, err := oci.References(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not a manifest: %w", storage.ErrNotExist, dgst, err)
	}
	o := outlineOf(dgst, int64(len(body)), links)
	v.outlines.Add(dgst, o)
	return o, nil
}

// sum adds up the sizes of blobs, each counted once.
type sum struct {
	total int64
	seen  map[digest.Digest]bool
}

func newSum() *sum { return &sum{seen: make(map[digest.Digest]bool)} }

func (s *sum) add(contents []content) {
	for _, one := range contents {
		if !s.seen[one.digest] {
			s.seen[one.digest] = true
			s.total += min(max(one.size, 0), math.MaxInt64-s.total) // the sizes are not verified
		}
	}
}

// Sizes returns the sizes of the images of tags, as Manifest gives them. A tag has none if its
// manifest is not cached or cannot be read, or if the context ends before it was read.
func (v *Inventory) Sizes(ctx context.Context, repo storage.RepoID, tags []string) map[string]int64 {
	sizes := make(map[string]int64, len(tags))
	known := make(map[digest.Digest]int64) // several tags often name one image
	for _, tag := range tags {
		if ctx.Err() != nil {
			break
		}
		record, err := v.opts.Catalog.Tag(ctx, repo, tag)
		if err != nil {
			continue
		}
		dgst := record.Descriptor.Digest
		size, ok := known[dgst]
		if !ok {
			size = v.size(ctx, repo, dgst)
			known[dgst] = size
		}
		if size > 0 {
			sizes[tag] = size
		}
	}
	return sizes
}

// size returns the size of an image; 0 if it is not known.
func (v *Inventory) size(ctx context.Context, repo storage.RepoID, dgst digest.Digest) int64 {
	look, all := v.look(repo), newSum()
	if isCached, err := look.cached(ctx, dgst); err != nil || !isCached {
		return 0
	}
	o, err := v.outline(ctx, dgst, v.opts.MaxManifest)
	if err != nil || look.weigh(ctx, o, all) != nil {
		return 0
	}
	return all.total
}

// weigh adds the blobs of a manifest, and those of its cached manifests, to sums.
func (l *looking) weigh(ctx context.Context, o *outline, sums ...*sum) error {
	for _, s := range sums {
		s.add(o.contents)
	}
	for _, one := range o.manifests {
		if err := l.weighChild(ctx, one, sums...); err != nil {
			return err
		}
	}
	return nil
}

// weighChild weighs a manifest of an index. A manifest that is not cached, or beyond the bounds, is
// not counted. The bounds hold for outlines in memory too: indexes that name the same indexes again
// and again have more paths than manifests.
func (l *looking) weighChild(ctx context.Context, one content, sums ...*sum) error {
	if l.manifests == 0 {
		l.uncounted++
		return nil
	}
	l.manifests--
	isCached, err := l.cached(ctx, one.digest)
	if err != nil {
		return err
	}
	var o *outline
	if isCached {
		o, err = l.inventory.outline(ctx, one.digest, min(l.bytes, l.inventory.opts.MaxManifest))
	}
	if missing(err) || !isCached { // it may have been evicted meanwhile
		l.uncounted++
		return nil
	}
	if err != nil {
		return err
	}
	l.bytes -= o.size
	return l.weigh(ctx, o, sums...)
}
