package namespace

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/upstream"
)

// Head returns what a manifest's HEAD answers: its descriptor. What is not
// cached costs a HEAD upstream, and nothing is stored. Its errors are those of
// [Namespace.Manifest].
func (n *Namespace) Head(ctx context.Context, repo, ref string) (*Manifest, error) {
	if dgst, err := digest.Parse(ref); err == nil {
		return n.headByDigest(ctx, repo, dgst)
	}
	return n.headByTag(ctx, repo, ref)
}

func (n *Namespace) headByDigest(ctx context.Context, repo string, dgst digest.Digest) (*Manifest, error) {
	id := n.id(repo)
	if desc, ok := n.has(ctx, id, dgst); ok {
		return &Manifest{Outcome: Outcome{Cache: Hit}, Descriptor: desc}, nil
	}
	if n.spec.Offline {
		return nil, n.offline("manifest " + dgst.String())
	}
	q := question{id, "manifest", dgst.String()}
	if err := n.cache.refused(q); err != nil {
		return nil, err
	}
	q.op = "head"
	f, _, err := share(ctx, n.cache.manifests, q, func(ctx context.Context) (*found, error) {
		f, err := n.ask(ctx, id, oci.ByDigest(dgst))
		n.remember(question{id, "manifest", dgst.String()}, err)
		return f, err
	})
	if err != nil {
		return nil, err
	}
	return f.describe(), nil
}

// ask asks the upstream what a tag or digest names. What is stored is described
// from the store; an upstream whose HEAD does not say everything about what is
// not is asked for the manifest itself, which is then stored.
func (n *Namespace) ask(ctx context.Context, id storage.RepoID, ref oci.Reference) (*found, error) {
	desc, err := n.spec.Upstreams.Head(ctx, id.Name, ref)
	if errors.Is(err, upstream.ErrHeadUnsupported) {
		return n.fetch(ctx, id, ref, "")
	}
	if err != nil {
		return nil, err
	}
	if dgst := ref.Digest(); dgst != "" {
		desc.Digest = dgst // whatever the header says
	}
	if own, ok := n.adopt(ctx, id, desc); ok {
		return &found{Outcome: Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, desc: own}, nil
	}
	if desc.Digest == "" || desc.MediaType == "" || desc.Size <= 0 {
		return n.fetch(ctx, id, ref, "")
	}
	return &found{Outcome: Outcome{Cache: Passed, Upstream: n.FirstUpstream()}, desc: desc}, nil
}

func (n *Namespace) headByTag(ctx context.Context, repo, tag string) (*Manifest, error) {
	id := n.id(repo)
	known, cached := n.tag(ctx, id, tag)
	switch {
	case cached && n.settled(tag, known):
		return &Manifest{Outcome: Outcome{Cache: Hit}, Descriptor: known.Descriptor}, nil
	case !cached && n.spec.Offline:
		return nil, n.offline("tag " + tag)
	}
	q := question{id, "tag", tag}
	if err := n.cache.refused(q); err != nil && !cached {
		return nil, err
	}
	f, _, err := share(ctx, n.cache.manifests, question{id, "head", tag}, func(ctx context.Context) (*found, error) {
		f, err := n.ask(ctx, id, oci.ByTag(tag))
		n.remember(q, err)
		if err == nil {
			n.learn(ctx, id, tag, f)
		}
		return f, err
	})
	if err != nil && cached {
		f, err = n.fallBack(ctx, id, tag, known, err)
	}
	if err != nil {
		return nil, err
	}
	m := f.describe()
	switch {
	case !cached || m.Cache == Stale:
	case known.Descriptor.Digest == f.desc.Digest:
		m.Cache = Revalidated
	default:
		m.Cache = Moved
	}
	return m, nil
}

// learn records what a HEAD has said about a tag, at once where the content is
// cached, otherwise as soon as it is fetched: a tag whose old content can still
// be served must not be given up for one whose content may never come.
func (n *Namespace) learn(ctx context.Context, id storage.RepoID, tag string, f *found) {
	now := catalog.Tag{Descriptor: f.desc, Checked: time.Now()}
	if f.Cache == Passed {
		n.cache.announced.Add(content{id, f.desc.Digest}, announcement{tag, now})
	} else {
		n.cache.putTag(ctx, id, tag, now)
	}
}
