package warm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// node is a manifest that is to be read.
type node struct {
	reference string
	size      int64 // as the descriptor says; 0 where there is none
	nesting   int   // indexes that it lies in
	referring int   // steps from the image to this referrer; 0 for the image itself
}

// document is what an index and an image manifest hold that leads on. Blobs are
// those of the artifact manifests that were in a draft of the OCI image-spec.
type document struct {
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Blobs     []ocispec.Descriptor `json:"blobs"`
}

// visit reads a manifest, queues its blobs, and returns the manifests that it
// leads to.
func (w *walk) visit(ctx context.Context, n node) []node {
	m, err := w.src.Manifest(ctx, n.reference)
	var dgst digest.Digest
	var doc document
	if err == nil {
		dgst, doc, err = n.parse(m.Body)
	}
	if err != nil {
		w.fail(ctx, fmt.Errorf("manifest %s: %w", n.reference, err))
		return nil
	}
	if m.Stale != "" {
		w.fail(ctx, fmt.Errorf("manifest %s: %s", n.reference, m.Stale))
	}
	w.read(n, dgst, m)
	next := w.children(ctx, n, doc.Manifests)
	if doc.Config != nil {
		w.enqueue(ctx, *doc.Config, m.There)
	}
	for _, desc := range append(doc.Layers, doc.Blobs...) {
		w.enqueue(ctx, desc, m.There)
	}
	return append(next, w.referrers(ctx, n, dgst)...)
}

// parse compares a manifest with what was announced, and decodes it.
func (n node) parse(body []byte) (dgst digest.Digest, doc document, err error) {
	if dgst, err = digest.Parse(n.reference); err != nil { // a tag
		dgst = digest.FromBytes(body)
	}
	if got := dgst.Algorithm().FromBytes(body); got != dgst {
		return dgst, doc, fmt.Errorf("the %d bytes that came have digest %s", len(body), got)
	}
	if n.size != 0 && n.size != int64(len(body)) {
		return dgst, doc, fmt.Errorf("has %d bytes, and %d where it is named", len(body), n.size)
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return dgst, doc, fmt.Errorf("is not a manifest: %w", err)
	}
	image := doc.Config != nil || doc.Layers != nil || doc.Blobs != nil
	switch {
	case image && doc.Manifests != nil:
		return dgst, doc, errors.New("is an index and an image at once")
	case !image && doc.Manifests == nil:
		return dgst, doc, errors.New("is neither an index nor an image")
	}
	return dgst, doc, nil
}

// read counts a manifest that is in the cache now.
func (w *walk) read(n node, dgst digest.Digest, m Manifest) {
	bytes := int64(len(m.Body))
	w.advance(func(p *Progress) {
		if n.nesting == 0 && n.referring == 0 {
			w.seen[dgst] = true // it was asked for by its tag
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
		child := node{reference: desc.Digest.String(), size: desc.Size, nesting: parent.nesting + 1, referring: parent.referring}
		if child.nesting > maxNesting {
			w.fail(ctx, fmt.Errorf("manifest %s: lies in more than %d indexes", desc.Digest, maxNesting))
		} else if w.takeManifest(ctx, desc) {
			next = append(next, child)
		}
	}
	return next
}

// wants reports whether a manifest of an index is wanted, by its platform.
func (w *walk) wants(parent node, p *ocispec.Platform) bool {
	if len(w.opts.Platforms) == 0 || p == nil || p.OS == "" || p.OS == "unknown" {
		return true
	}
	wanted := matches(w.opts.Platforms, *p)
	if parent.referring == 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.offered = append(w.offered, name(*p))
		w.matched = w.matched || wanted
	}
	return wanted
}

// referrers returns the manifests that refer to one.
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
			next = append(next, node{reference: desc.Digest.String(), size: desc.Size, referring: n.referring + 1})
		}
	}
	return next
}

// takeManifest reports whether a manifest is to be read that was named.
func (w *walk) takeManifest(ctx context.Context, desc ocispec.Descriptor) bool {
	if !w.take(ctx, "manifest", desc, maxManifest) {
		return false
	}
	w.mu.Lock()
	w.taken++
	taken := w.taken
	w.mu.Unlock()
	if taken == maxManifests {
		w.fail(ctx, fmt.Errorf("manifest %s: there are more than %d, which no image has; the rest is left out", desc.Digest, maxManifests))
	}
	if taken >= maxManifests {
		return false
	}
	w.advance(func(p *Progress) { p.Total.Objects++ })
	return true
}

// enqueue queues a blob that a manifest names.
func (w *walk) enqueue(ctx context.Context, desc ocispec.Descriptor, probably bool) {
	if foreign(desc) || !w.take(ctx, "blob", desc, maxBlob) {
		return
	}
	w.mu.Lock()
	full := len(w.queue) == maxBlobs
	if !full {
		w.queue = append(w.queue, blob{desc, probably})
	}
	w.mu.Unlock()
	if full {
		w.fail(ctx, fmt.Errorf("blob %s: there are more than %d, which no image has", desc.Digest, maxBlobs))
		return
	}
	w.advance(func(p *Progress) { p.Total.add(desc.Size) })
}

// take reports whether a content is to be brought: one that is well described
// and was not named before.
func (w *walk) take(ctx context.Context, kind string, desc ocispec.Descriptor, limit int64) bool {
	w.mu.Lock()
	again := w.seen[desc.Digest]
	w.seen[desc.Digest] = true
	w.mu.Unlock()
	if again {
		return false
	}
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

// foreign reports whether a layer is to be had elsewhere only: registries do
// not keep it (image-spec, "Non-Distributable Layers").
func foreign(desc ocispec.Descriptor) bool {
	return len(desc.URLs) > 0 ||
		strings.Contains(desc.MediaType, ".nondistributable.") ||
		strings.Contains(desc.MediaType, ".foreign.")
}
