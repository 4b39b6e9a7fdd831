package warm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// node is a manifest to read.
type node struct {
	ref       oci.Reference
	name      string // in notes: its platform, else its digest
	attests   bool   // it is an attestation about another manifest of its index
	size      int64  // of its descriptor; 0 for the manifest that the image's reference names
	nesting   int    // how many indexes it lies in
	referring int    // how many referrers lie between it and the image; 0 for the image itself
}

// visit reads a manifest, queues its blobs, and returns the manifests that it
// leads to.
func (w *walk) visit(ctx context.Context, n node) []node {
	m, err := w.src.Manifest(ctx, n.ref)
	var dgst digest.Digest
	var links oci.Links
	if err == nil {
		dgst, links, err = n.parse(m.Body)
	}
	// Copies of an image often have some of its platforms only.
	if isNotFound(err) && (n.nesting > 0 || n.referring > 0) {
		w.missManifest(n)
		return nil
	}
	if err != nil {
		w.fail(ctx, fmt.Errorf("manifest %s: %w", n.ref, err))
		return nil
	}
	// A stale manifest is better than none: report it, and warm the rest.
	if m.Stale != "" {
		w.fail(ctx, fmt.Errorf("manifest %s: %s", n.ref, m.Stale))
	}
	for _, err := range links.Invalid {
		w.fail(ctx, err)
	}
	w.countManifest(n, dgst, m, links.Kind)
	next := w.children(ctx, n, links.Manifests)
	if links.Config != nil {
		w.enqueue(ctx, *links.Config, m.There)
	}
	for _, desc := range append(links.Layers, links.Blobs...) {
		w.enqueue(ctx, desc, m.There)
	}
	return append(next, w.referrers(ctx, n, dgst)...)
}

// parse verifies a manifest against its digest and size, and reads its links.
func (n node) parse(body []byte) (dgst digest.Digest, links oci.Links, err error) {
	if dgst = n.ref.Digest(); n.ref.IsTag() {
		dgst = digest.FromBytes(body)
	}
	if got := dgst.Algorithm().FromBytes(body); got != dgst {
		return dgst, links, fmt.Errorf("the %d bytes that arrived have digest %s", len(body), got)
	}
	if n.size != 0 && n.size != int64(len(body)) {
		return dgst, links, fmt.Errorf("has %d bytes, but its descriptor says %d", len(body), n.size)
	}
	if links, err = oci.References(body); err != nil {
		return dgst, links, fmt.Errorf("is not a manifest: %w", err)
	}
	switch links.Kind {
	case oci.Both:
		err = errors.New("is an index and an image at once")
	case oci.Neither:
		err = errors.New("is neither an index nor an image")
	}
	return dgst, links, err
}

// countManifest counts a manifest that is in the cache now.
func (w *walk) countManifest(n node, dgst digest.Digest, m Manifest, kind oci.Kind) {
	bytes := int64(len(m.Body))
	w.advance(func(p *Progress) {
		w.found = w.found || kind == oci.ImageManifest && n.referring == 0 && !n.attests
		// The image's own manifest was not taken from a descriptor, so it is
		// counted here.
		if n.nesting == 0 && n.referring == 0 {
			w.seen[dgst] = true
			w.result.Digest = dgst
			p.Total.Objects++
		}
		p.Total.Bytes += bytes
		p.Done.Bytes += bytes
	})
	w.done(bytes, m.There)
}

// children returns the manifests of an index that are wanted.
func (w *walk) children(ctx context.Context, parent node, manifests []ocispec.Descriptor) []node {
	var next []node
	for _, desc := range manifests {
		if !w.wants(parent, desc.Platform) {
			continue
		}
		child := node{ref: oci.ByDigest(desc.Digest).Accepting(desc.MediaType), name: nameOf(desc), attests: isAttestation(desc),
			size: desc.Size, nesting: parent.nesting + 1, referring: parent.referring}
		if child.nesting > maxNesting {
			w.fail(ctx, fmt.Errorf("manifest %s: is nested in more than %d indexes", desc.Digest, maxNesting))
		} else if w.takeManifest(ctx, desc) {
			next = append(next, child)
		}
	}
	return next
}

// nameOf names a manifest by its platform, if it has one, and else by its digest.
func nameOf(desc ocispec.Descriptor) string {
	if p := desc.Platform; p != nil && p.OS != "" && !isAttestation(desc) {
		return oci.FormatPlatform(*p)
	}
	return desc.Digest.String()
}

// isAttestation reports whether a manifest of an index is an attestation. BuildKit gives
// them the platform unknown/unknown.
func isAttestation(desc ocispec.Descriptor) bool {
	return desc.Platform != nil && desc.Platform.OS == "unknown"
}

// wants reports whether a manifest of an index is wanted, by its platform.
func (w *walk) wants(parent node, p *ocispec.Platform) bool {
	// Attestations belong to all platforms.
	if len(w.opts.Platforms) == 0 || p == nil || p.OS == "" || p.OS == "unknown" {
		return true
	}
	wanted := matches(w.opts.Platforms, *p)
	// The platforms of a referrer's index say nothing about the image.
	if parent.referring == 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.offered) < maxManifests { // for a message, which shows fewer
			w.offered = append(w.offered, oci.FormatPlatform(*p))
		}
		w.matched = w.matched || wanted
	}
	return wanted
}

// referrers returns the manifests that refer to a manifest.
func (w *walk) referrers(ctx context.Context, n node, dgst digest.Digest) []node {
	if !w.opts.Referrers || n.referring == maxReferring || ctx.Err() != nil {
		return nil
	}
	list, err := w.src.Referrers(ctx, dgst)
	if err != nil {
		w.fail(ctx, fmt.Errorf("referrers of %s: %w", dgst, err))
		return nil
	}
	var next []node
	for _, desc := range list {
		if w.takeManifest(ctx, desc) {
			next = append(next, node{ref: oci.ByDigest(desc.Digest).Accepting(desc.MediaType), name: nameOf(desc), size: desc.Size, referring: n.referring + 1})
		}
	}
	return next
}

// takeManifest reports whether a manifest is to be read. It counts those that
// are, and refuses all after the first maxManifests.
func (w *walk) takeManifest(ctx context.Context, desc ocispec.Descriptor) bool {
	if !w.take(ctx, "manifest", desc, w.opts.MaxManifest) {
		return false
	}
	w.mu.Lock()
	w.taken++
	taken := w.taken
	w.mu.Unlock()
	if taken == maxManifests { // reported once, for the first that is left out
		w.fail(ctx, fmt.Errorf("manifest %s: the image has more than %d manifests, which no real image has; the rest are skipped", desc.Digest, maxManifests))
	}
	if taken >= maxManifests {
		return false
	}
	w.advance(func(p *Progress) { p.Total.Objects++ })
	return true
}

// enqueue queues a blob of a manifest. Likely is whether the blob is likely to be
// in the cache.
func (w *walk) enqueue(ctx context.Context, desc ocispec.Descriptor, likely bool) {
	if !w.take(ctx, "blob", desc, maxBlob) {
		return
	}
	w.mu.Lock()
	full := len(w.queue) == maxBlobs
	if !full {
		w.queue = append(w.queue, blob{desc, likely, isForeign(desc)})
	}
	w.mu.Unlock()
	if full {
		w.fail(ctx, fmt.Errorf("blob %s: the image has more than %d blobs, which no real image has", desc.Digest, maxBlobs))
		return
	}
	w.advance(func(p *Progress) { p.Total.add(desc.Size) })
}

// take reports whether content is to be fetched: it was not taken before, and its
// digest and size are valid.
func (w *walk) take(ctx context.Context, kind string, desc ocispec.Descriptor, limit int64) bool {
	w.mu.Lock()
	again := w.seen[desc.Digest]
	full := len(w.seen) >= maxManifests+maxBlobs
	if !again && !full {
		w.seen[desc.Digest] = true
	}
	w.mu.Unlock()
	if again {
		return false
	}
	// A hostile image names other content in each of its manifests.
	if full {
		w.fail(ctx, fmt.Errorf("%s %s: the image refers to more than %d manifests and blobs, which no real image does", kind, desc.Digest, maxManifests+maxBlobs))
		return false
	}
	// Links have valid digests only; the list of referrers has not been checked.
	if err := desc.Digest.Validate(); err != nil {
		w.fail(ctx, fmt.Errorf("%s %q: %w", kind, desc.Digest, err))
		return false
	}
	if desc.Size < 0 || desc.Size > limit {
		w.fail(ctx, fmt.Errorf("%s %s: cannot have %d bytes", kind, desc.Digest, desc.Size))
		return false
	}
	return true
}

// isForeign reports whether clients may fetch a layer from its own URLs, since most
// registries do not keep it (image-spec, "Non-Distributable Layers").
func isForeign(desc ocispec.Descriptor) bool {
	return len(desc.URLs) > 0 ||
		strings.Contains(desc.MediaType, ".nondistributable.") ||
		strings.Contains(desc.MediaType, ".foreign.")
}
