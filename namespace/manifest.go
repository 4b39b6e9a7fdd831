package namespace

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/upstream"
)

// Manifest is the answer to a question for a manifest.
type Manifest struct {
	Outcome
	Descriptor ocispec.Descriptor
	// Content reads the manifest; the caller closes it. It is nil when only
	// the descriptor was asked for.
	Content io.ReadSeekCloser
}

// found is what a lookup that several requests share came to. Body is nil when
// the content is in the store.
type found struct {
	Outcome
	desc ocispec.Descriptor
	body []byte
}

// describe is the answer without the content.
func (f *found) describe() *Manifest {
	return &Manifest{Outcome: f.Outcome, Descriptor: f.desc}
}

// Manifest returns a manifest by tag or digest. Its errors are ErrOffline and
// those of package upstream.
func (n *Namespace) Manifest(ctx context.Context, repo, ref string) (*Manifest, error) {
	if dgst, err := digest.Parse(ref); err == nil {
		return n.manifestByDigest(ctx, repo, dgst)
	}
	return n.manifestByTag(ctx, repo, ref)
}

func (n *Namespace) manifestByDigest(ctx context.Context, repo string, dgst digest.Digest) (*Manifest, error) {
	id := n.id(repo)
	if desc, ok := n.has(ctx, id, dgst); ok {
		return n.open(ctx, id, &found{Outcome: Outcome{Cache: Hit}, desc: desc}, true)
	}
	if n.spec.Offline {
		return nil, n.offline("manifest " + dgst.String())
	}
	q := question{id, "manifest", dgst.String()}
	if err := n.cache.refused(q); err != nil {
		return nil, err
	}
	f, led, err := share(ctx, n.cache.manifests, q, func(ctx context.Context) (*found, error) {
		f, err := n.confirm(ctx, id, dgst)
		if f == nil && err == nil {
			f, err = n.fetch(ctx, id, oci.ByDigest(dgst), "")
		}
		n.remember(q, err)
		return f, err
	})
	if err != nil {
		return nil, err
	}
	return n.open(ctx, id, f, led)
}

// fetch gets a manifest from upstream and stores it, together with the tag that
// names it, if there is one.
func (n *Namespace) fetch(ctx context.Context, id storage.RepoID, ref oci.Reference, tag string) (*found, error) {
	m, err := n.spec.Upstreams.Manifest(ctx, id.Name, ref)
	if err != nil {
		return nil, err
	}
	f := &found{Outcome: Outcome{Cache: Miss, Upstream: m.Upstream}, desc: m.Descriptor, body: m.Body}
	if !n.cache.keep(ctx, id, tag, m) {
		f.Cache = Passed
	}
	return f, nil
}

// open makes the answer for one of those who shared a lookup.
func (n *Namespace) open(ctx context.Context, id storage.RepoID, f *found, led bool) (*Manifest, error) {
	m := f.describe()
	if !led && f.Cache != Revalidated && f.Cache != Passed {
		m.Cache = Collapsed
	}
	if f.body != nil {
		m.Content = inMemory(f.body)
		return m, nil
	}
	obj, err := n.cache.store.Open(ctx, f.desc.Digest)
	if err != nil {
		return n.refetch(ctx, id, f.desc.Digest, err)
	}
	m.Content, m.Descriptor.Size = obj.Content, obj.Size
	return m, nil
}

// refetch gets a manifest that ought to be stored and cannot be opened: it has
// been evicted a moment ago, or the store fails, which must not cost a client
// what the upstream still has.
func (n *Namespace) refetch(ctx context.Context, id storage.RepoID, dgst digest.Digest, failure error) (*Manifest, error) {
	evicted := errors.Is(failure, storage.ErrNotExist)
	switch {
	case n.spec.Offline && evicted:
		return nil, n.offline("manifest " + dgst.String())
	case n.spec.Offline:
		return nil, failure
	case !evicted:
		n.log.Warn("cannot read a stored manifest; its upstream is asked", "repository", id.String(), "digest", dgst, "error", failure)
	}
	f, led, err := share(ctx, n.cache.manifests, question{id, "refetch", dgst.String()}, func(ctx context.Context) (*found, error) {
		return n.fetch(ctx, id, oci.ByDigest(dgst), "")
	})
	if err != nil {
		return nil, err
	}
	return n.open(ctx, id, f, led)
}

func (n *Namespace) manifestByTag(ctx context.Context, repo, tag string) (*Manifest, error) {
	id := n.id(repo)
	known, cached := n.tag(ctx, id, tag)
	switch {
	case cached && n.settled(tag, known):
		return n.open(ctx, id, &found{Outcome: Outcome{Cache: Hit}, desc: known.Descriptor}, true)
	case !cached && n.spec.Offline:
		return nil, n.offline("tag " + tag)
	}
	q := question{id, "tag", tag}
	if err := n.cache.refused(q); err != nil && !cached {
		return nil, err
	}
	f, led, err := share(ctx, n.cache.manifests, q, func(ctx context.Context) (*found, error) {
		f, err := n.refresh(ctx, id, tag, known, cached)
		n.remember(q, err)
		return f, err
	})
	if err != nil && cached {
		f, err = n.fallBack(ctx, id, tag, known, err)
	}
	if err != nil {
		return nil, err
	}
	return n.open(ctx, id, f, led || f.Cache == Stale)
}

// tag returns what is recorded about a tag, and whether its content is cached.
func (n *Namespace) tag(ctx context.Context, id storage.RepoID, tag string) (known catalog.Tag, cached bool) {
	known, err := n.cache.catalog.Tag(ctx, id, tag)
	if err != nil {
		return catalog.Tag{}, false
	}
	known.Descriptor, cached = n.has(ctx, id, known.Descriptor.Digest)
	return known, cached
}

// settled reports whether a cached tag is served without asking an upstream.
func (n *Namespace) settled(tag string, known catalog.Tag) bool {
	return n.spec.Offline ||
		time.Since(known.Checked) < n.spec.TagTTL ||
		n.policy.isImmutable(tag)
}

// refresh asks the upstream what a tag names. A tag that is cached costs a
// HEAD, and a GET only where it has moved or HEAD does not say.
func (n *Namespace) refresh(ctx context.Context, id storage.RepoID, tag string, known catalog.Tag, cached bool) (*found, error) {
	ref := oci.ByTag(tag)
	if cached {
		desc, err := n.spec.Upstreams.Head(ctx, id.Name, ref)
		switch {
		case errors.Is(err, upstream.ErrHeadUnsupported), err == nil && desc.Digest == "":
		case err != nil:
			return nil, err
		default:
			if own, ok := n.adopt(ctx, id, desc); ok {
				return n.checked(ctx, id, tag, own, known), nil
			}
			ref = oci.ByDigest(desc.Digest)
		}
	}
	f, err := n.fetch(ctx, id, ref, tag)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Cache == Passed: // and so the tag still leads to what it did
	case cached && f.desc.Digest == known.Descriptor.Digest:
		f.Cache = Revalidated
	case cached:
		f.Cache = Moved
	}
	return f, nil
}

// checked records that an upstream has just said that a tag, of which something
// else may have been known, names a cached content.
func (n *Namespace) checked(ctx context.Context, id storage.RepoID, tag string, desc ocispec.Descriptor, known catalog.Tag) *found {
	n.cache.putTag(ctx, id, tag, catalog.Tag{Descriptor: desc, Checked: time.Now()})
	f := &found{Outcome: Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, desc: desc}
	if desc.Digest != known.Descriptor.Digest {
		f.Cache = Moved
	}
	return f
}

// fallBack answers an upstream's failure from the cache where the namespace
// does so, and otherwise returns that failure. A tag that is definitely gone is
// forgotten.
func (n *Namespace) fallBack(ctx context.Context, id storage.RepoID, tag string, known catalog.Tag, failure error) (*found, error) {
	if o, ok := n.stale(failure, known.Checked); ok {
		return &found{Outcome: o, desc: known.Descriptor}, nil
	}
	if errors.Is(failure, upstream.ErrNotFound) {
		if err := n.cache.catalog.DeleteTag(ctx, id, tag); err != nil && !errors.Is(err, storage.ErrNotExist) {
			n.log.Warn("cannot forget a tag that its upstream no longer has", "repository", id.String(), "tag", tag, "error", err)
		}
	}
	return nil, failure
}
