package namespace

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
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
	f, led, err := share(ctx, n.cache, q, func(ctx context.Context) (*found, error) {
		f, err := n.confirm(ctx, id, dgst)
		if f == nil && err == nil {
			f, err = n.fetch(ctx, id, dgst.String())
		}
		n.remember(q, err)
		return f, err
	})
	if err != nil {
		return nil, err
	}
	return n.open(ctx, id, f, led)
}

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

// confirm looks for a manifest that is stored, but not known to be this
// repository's, and asks the upstream whether it is. It returns nil when the
// manifest has to be fetched.
func (n *Namespace) confirm(ctx context.Context, id storage.Repository, dgst digest.Digest) (*found, error) {
	if _, err := n.cache.store.Stat(ctx, dgst); err != nil {
		return nil, nil
	}
	desc, err := n.spec.Upstreams.Head(ctx, id.Name, dgst.String())
	if errors.Is(err, upstream.ErrHeadUnsupported) || err == nil && desc.MediaType == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	desc.Digest = dgst
	n.cache.putLink(ctx, id, desc)
	return &found{Outcome: Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, desc: desc}, nil
}

// fetch gets a manifest from upstream and stores it.
func (n *Namespace) fetch(ctx context.Context, id storage.Repository, ref string) (*found, error) {
	m, err := n.spec.Upstreams.Manifest(ctx, id.Name, ref)
	if err != nil {
		return nil, err
	}
	f := &found{Outcome: Outcome{Cache: Miss, Upstream: m.Upstream}, desc: m.Descriptor, body: m.Body}
	if !n.cache.keep(ctx, id, m) {
		f.Cache = Passed
	}
	return f, nil
}

// open makes the answer for one of those who shared a lookup.
func (n *Namespace) open(ctx context.Context, id storage.Repository, f *found, led bool) (*Manifest, error) {
	m := f.describe()
	if !led && f.Cache != Revalidated {
		m.Cache = Collapsed
	}
	if f.body != nil {
		m.Content = inMemory(f.body)
		return m, nil
	}
	obj, err := n.cache.store.Open(ctx, f.desc.Digest)
	if errors.Is(err, storage.ErrNotExist) {
		return n.manifestByDigest(ctx, id.Name, f.desc.Digest) // evicted since
	}
	if err != nil {
		return nil, err
	}
	m.Content, m.Descriptor.Size = obj.Content, obj.Size
	return m, nil
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
	f, led, err := share(ctx, n.cache, q, func(ctx context.Context) (*found, error) {
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
func (n *Namespace) tag(ctx context.Context, id storage.Repository, tag string) (known storage.Tag, cached bool) {
	known, err := n.cache.catalog.Tag(ctx, id, tag)
	if err != nil {
		return storage.Tag{}, false
	}
	known.Descriptor, cached = n.has(ctx, id, known.Descriptor.Digest)
	return known, cached
}

// settled reports whether a cached tag is served without asking an upstream.
func (n *Namespace) settled(tag string, known storage.Tag) bool {
	return n.spec.Offline ||
		time.Since(known.Checked) < n.spec.TagTTL ||
		n.policy.isImmutable(tag)
}

// refresh asks the upstream what a tag names. A tag that is cached costs a
// HEAD, and a GET only where it has moved or HEAD does not say.
func (n *Namespace) refresh(ctx context.Context, id storage.Repository, tag string, known storage.Tag, cached bool) (*found, error) {
	ref := tag
	if cached {
		desc, err := n.spec.Upstreams.Head(ctx, id.Name, tag)
		switch {
		case errors.Is(err, upstream.ErrHeadUnsupported), err == nil && desc.Digest == "":
		case err != nil:
			return nil, err
		case desc.Digest == known.Descriptor.Digest:
			return n.checked(ctx, id, tag, known.Descriptor, Revalidated), nil
		case n.possesses(ctx, id, desc):
			return n.checked(ctx, id, tag, desc, Moved), nil
		default:
			ref = desc.Digest.String()
		}
	}
	f, err := n.fetch(ctx, id, ref)
	if err != nil {
		return nil, err
	}
	if f.Cache != Passed {
		n.cache.putTag(ctx, id, tag, storage.Tag{Descriptor: f.desc, Checked: time.Now()})
	}
	switch {
	case cached && f.desc.Digest == known.Descriptor.Digest:
		f.Cache = Revalidated
	case cached:
		f.Cache = Moved
	}
	return f, nil
}

// checked records that an upstream has just said what a tag names.
func (n *Namespace) checked(ctx context.Context, id storage.Repository, tag string, desc ocispec.Descriptor, status CacheStatus) *found {
	n.cache.putTag(ctx, id, tag, storage.Tag{Descriptor: desc, Checked: time.Now()})
	return &found{Outcome: Outcome{Cache: status, Upstream: n.FirstUpstream()}, desc: desc}
}

// possesses reports whether the content that an upstream has just named for a
// repository is stored already. That answer proved the repository's right to
// it, so it is linked.
func (n *Namespace) possesses(ctx context.Context, id storage.Repository, desc ocispec.Descriptor) bool {
	if _, err := n.cache.store.Stat(ctx, desc.Digest); err != nil {
		return false
	}
	if desc.MediaType == "" {
		link, err := n.cache.catalog.Link(ctx, id, desc.Digest)
		return err == nil && link.MediaType != ""
	}
	n.cache.putLink(ctx, id, desc)
	return true
}

// fallBack answers an upstream's failure from the cache where the namespace
// does so, and otherwise returns that failure. A tag that is definitely gone is
// forgotten.
func (n *Namespace) fallBack(ctx context.Context, id storage.Repository, tag string, known storage.Tag, failure error) (*found, error) {
	if warning, ok := n.stale(failure, known.Checked); ok {
		return &found{
			Outcome: Outcome{Cache: Stale, Upstream: n.FirstUpstream(), Warning: warning},
			desc:    known.Descriptor,
		}, nil
	}
	if errors.Is(failure, upstream.ErrNotFound) {
		if err := n.cache.catalog.DeleteTag(ctx, id, tag); err != nil && !errors.Is(err, storage.ErrNotExist) {
			n.log.Warn("cannot forget a tag that its upstream no longer has", "repository", id.String(), "tag", tag, "error", err)
		}
	}
	return nil, failure
}
