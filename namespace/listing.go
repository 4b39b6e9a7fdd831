package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/flight"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// listKind is the kind of a list, as the catalog names its documents.
type listKind string

const (
	tagList      listKind = "tags"
	referrerList listKind = "referrers"
)

// Tags is a page of a repository's tags.
type Tags struct {
	Outcome `json:"-"`
	Tags    []string   `json:"tags"`
	Next    url.Values `json:"next,omitempty"` // the query of the next page; nil if this is the last one
}

// Referrers is the index of the manifests that refer to a manifest.
type Referrers struct {
	Outcome `json:"-"`
	Index   ocispec.Index `json:"index"`
}

// Tags returns the upstream's page of tags for a query: n, last, and any other
// parameter that a registry's own links carry. If the upstream fails, Tags returns
// the page of the list that was kept or, if there is none, the tags that are cached.
func (n *Namespace) Tags(ctx context.Context, repo string, query url.Values) (*Tags, error) {
	key := listKey{n.repoID(repo), tagList, query.Encode()}
	ask := func(ctx context.Context) (*Tags, error) {
		page, err := n.spec.Upstreams.Tags(ctx, repo, query)
		n.noteRight(ctx, key.repo, listProof, "", err)
		if err != nil {
			return nil, err
		}
		list := &Tags{
			Outcome: Outcome{Cache: Passed, Upstream: page.Upstream},
			Tags:    page.Tags,
			Next:    page.Next,
		}
		// A client's Via may only claim that the first upstream is in a loop, so the list of
		// another one is that client's alone.
		if !via.Looped(ctx) {
			n.keepTags(ctx, key, query, list)
		}
		return list, nil
	}
	return listing(ctx, n, n.cache.tags, key, ask, func(ctx context.Context, failure error) *Tags {
		if kept := n.keptTags(ctx, key.repo, query, failure); kept != nil {
			return kept
		}
		return n.localTags(ctx, key.repo, query, failure)
	})
}

// localTags pages through the tags that are cached, by the rules of the
// distribution-spec ("Listing Tags"). It returns nil if there are none, or if the
// namespace does not answer this failure from the cache.
func (n *Namespace) localTags(ctx context.Context, repo storage.RepoID, query url.Values, failure error) *Tags {
	// The next page of an upstream's own making begins at an unknown tag.
	if page := pageOf(query); page != "" && !query.Has("last") {
		return nil
	}
	names, err := n.cache.catalog.Tags(ctx, repo)
	if err != nil {
		if ctx.Err() != nil {
			return nil // the client has left
		}
		n.logger.Warn("cannot list the cached tags", "repository", repo.String(), "error", err)
		return nil
	}
	oldest := time.Now()
	names = slices.DeleteFunc(names, func(name string) bool {
		tag, ok := n.cache.book.Current(ctx, repo, name)
		// An offline namespace has no upstream that could have confirmed the tag.
		if !ok || !n.spec.Offline && n.tooOld(tag.Checked) {
			return true
		}
		if tag.Checked.Before(oldest) {
			oldest = tag.Checked
		}
		return false
	})
	// An empty list would claim that the repository has no tags.
	if len(names) == 0 {
		return nil
	}
	list := &Tags{}
	var ok bool
	if list.Outcome, ok = n.instead(ctx, repo, failure, oldest); !ok {
		return nil
	}
	page, more := oci.Page(names, query)
	list.Tags = page
	if more {
		list.Next = url.Values{"n": query["n"], "last": {page[len(page)-1]}}
	}
	return list
}

// Referrers returns the upstream's index of the referrers of a digest, only those
// of one artifact type unless that is empty. If the upstream fails, Referrers
// returns its last answer.
func (n *Namespace) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*Referrers, error) {
	// A digest has no question mark, so the name of the list is unambiguous.
	key := listKey{n.repoID(repo), referrerList, dgst.String() + "?" + artifactType}
	ask := func(ctx context.Context) (*Referrers, error) {
		r, err := n.spec.Upstreams.Referrers(ctx, repo, dgst, artifactType)
		if err != nil {
			return nil, err
		}
		list := &Referrers{Outcome: Outcome{Cache: Passed, Upstream: r.Upstream}, Index: r.Index}
		if !via.Looped(ctx) && n.worthKeeping(ctx, key.repo, dgst, artifactType, list) {
			n.keepListing(ctx, key, list)
			n.noteSubjects(key.repo, list)
		}
		return list, nil
	}
	return listing(ctx, n, n.cache.referrers, key, ask, func(ctx context.Context, failure error) *Referrers {
		kept := keptListing[Referrers](ctx, n, key, failure)
		if kept != nil || artifactType == "" {
			return kept
		}
		// The unfiltered list may be kept even if this one is not.
		all := key
		all.name = dgst.String() + "?"
		if kept = keptListing[Referrers](ctx, n, all, failure); kept != nil {
			kept.Index.Manifests = slices.DeleteFunc(kept.Index.Manifests, func(d ocispec.Descriptor) bool {
				return d.ArtifactType != artifactType
			})
		}
		return kept
	})
}

// KeptReferrers returns the list of the referrers of a manifest that was kept, without asking an
// upstream; none if no list was kept.
func (c *Cache) KeptReferrers(ctx context.Context, repo storage.RepoID, subject digest.Digest) ([]ocispec.Descriptor, error) {
	doc, err := c.catalog.Document(ctx, repo, string(referrerList), subject.String()+"?")
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	var kept Referrers
	if err != nil || oci.CheckShape(doc.Body) != nil || json.Unmarshal(doc.Body, &kept) != nil {
		return nil, err // a document that cannot be read counts as none
	}
	return slices.DeleteFunc(kept.Index.Manifests, func(d ocispec.Descriptor) bool { return storage.ValidateDigest(d.Digest) != nil }), nil
}

// worthKeeping reports whether an upstream's list of referrers is kept. A client can
// invent digests and types without number, which have no referrers. An empty list is
// kept only for a subject that the repository has, or that is itself in a kept list, since
// clients walk from referrer to referrer. Of such a subject a few types are kept.
func (n *Namespace) worthKeeping(ctx context.Context, repo storage.RepoID, subject digest.Digest, artifactType string, list *Referrers) bool {
	if len(list.Index.Manifests) > 0 {
		return true
	}
	key := content{repo, subject}
	types, known := n.cache.subjects.Get(key)
	if !known {
		if _, err := n.cache.catalog.Link(ctx, repo, subject); err != nil {
			return false
		}
	}
	switch {
	case artifactType == "" || slices.Contains(types, artifactType):
		return true
	case len(types) >= maxEmptyTypes:
		return false // its client invents them
	}
	n.cache.subjects.Add(key, append(slices.Clip(types), strings.Clone(artifactType)))
	return true
}

// maxEmptyTypes is how many artifact types without referrers are kept for a subject.
// Clients look for a few, such as signatures, attestations and bills of materials.
const maxEmptyTypes = 8

// noteSubjects notes the manifests of a kept list, whose own lists are kept even if they
// are empty.
func (n *Namespace) noteSubjects(repo storage.RepoID, list *Referrers) {
	for _, d := range list.Index.Manifests {
		key := content{repo, d.Digest}
		if _, known := n.cache.subjects.Get(key); !known {
			n.cache.subjects.Add(key, nil)
		}
	}
}

// list is a pointer to an answer that embeds its Outcome.
type list[T any] interface {
	*T
	set(Outcome)
}

// listing asks the upstream for a list, unless the namespace is offline. Callers with
// the same key at the same time share one answer. kept returns the answer of the cache
// to a failure, nil if there is none.
func listing[T any, P list[T]](ctx context.Context, n *Namespace, lookups *flight.Group[shared[listKey], *T], key listKey,
	ask func(context.Context) (*T, error), kept func(context.Context, error) *T,
) (*T, error) {
	var list *T
	var led bool
	var err error = n.offline(string(key.kind))
	if !n.spec.Offline {
		standIn := func(ctx context.Context, failure error) bool { return kept(ctx, failure) != nil }
		list, led, err = share(ctx, n, lookups, key, standIn, ask)
	}
	switch {
	case err != nil:
		if stored := kept(ctx, err); stored != nil {
			return stored, nil
		}
		return nil, n.undecided(ctx, key.repo, listProof, "the list of "+string(key.kind), err)
	case !led:
		shared := *list // the leader's answer keeps its own outcome
		P(&shared).set(Outcome{Cache: Collapsed, Upstream: n.FirstUpstream()})
		return &shared, nil
	default:
		return list, nil
	}
}

func (n *Namespace) keepListing(ctx context.Context, key listKey, list any) {
	ctx = context.WithoutCancel(ctx) // it is worth keeping, even if all clients have left
	release, err := n.longKept.Take(ctx)
	if err != nil {
		return // cannot be: the context does not end
	}
	defer release()
	body, err := json.Marshal(list)
	if err == nil {
		err = n.cache.catalog.PutDocument(ctx, key.repo, string(key.kind), key.name, catalog.Document{Body: body, Checked: time.Now()})
	}
	recorded(n.cache.records, err, key.repo, "list", string(key.kind))
}

// keptListing returns the answer that was kept if the namespace answers this
// failure from the cache, and otherwise nil.
func keptListing[T any, P list[T]](ctx context.Context, n *Namespace, key listKey, failure error) *T {
	release, err := n.longKept.Take(ctx)
	if err != nil {
		return nil
	}
	defer release()
	doc, err := n.cache.catalog.Document(ctx, key.repo, string(key.kind), key.name)
	if err != nil {
		return nil
	}
	o, ok := n.instead(ctx, key.repo, failure, doc.Checked)
	if !ok {
		return nil
	}
	kept := new(T)
	// A document that cannot be read counts as none: the failure says more.
	if oci.CheckShape(doc.Body) != nil || json.Unmarshal(doc.Body, kept) != nil {
		return nil
	}
	P(kept).set(o)
	return kept
}

// instead returns the outcome of an answer from the cache that was checked at a
// time and stands in for a failure: a hit while the namespace is offline, and else
// a stale answer. It reports false if the namespace returns the failure.
func (n *Namespace) instead(ctx context.Context, repo storage.RepoID, failure error, checked time.Time) (Outcome, bool) {
	if _, offline := errors.AsType[*OfflineError](failure); offline {
		return Outcome{Cache: Hit}, true
	}
	return n.stale(ctx, repo, listProof, failure, checked)
}
