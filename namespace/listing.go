package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/flight"
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
// its last answer to the same query or, if there is none, the tags that are cached.
func (n *Namespace) Tags(ctx context.Context, repo string, query url.Values) (*Tags, error) {
	key := listKey{n.repoID(repo), tagList, query.Encode()}
	list, err := listing(ctx, n, n.cache.tags, key, func(ctx context.Context) (*Tags, error) {
		page, err := n.spec.Upstreams.Tags(ctx, repo, query)
		if err != nil {
			return nil, err
		}
		return &Tags{
			Outcome: Outcome{Cache: Passed, Upstream: page.Upstream},
			Tags:    page.Tags,
			Next:    page.Next,
		}, nil
	})
	if err == nil {
		return list, nil
	}
	if local := n.localTags(ctx, key.repo, query, err); local != nil {
		return local, nil
	}
	return nil, err
}

// localTags pages through the tags that are cached, by the rules of the
// distribution-spec ("Listing Tags"). It returns nil if there are none, or if the
// namespace does not answer this failure from the cache.
func (n *Namespace) localTags(ctx context.Context, repo storage.RepoID, query url.Values, failure error) *Tags {
	names, err := n.cache.catalog.Tags(ctx, repo)
	if err != nil {
		n.logger.Warn("cannot list the tags that are cached", "repository", repo.String(), "error", err)
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
	if list.Outcome, ok = n.instead(failure, oldest); !ok {
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
	ask := func(ctx context.Context) (*Referrers, error) {
		r, err := n.spec.Upstreams.Referrers(ctx, repo, dgst, artifactType)
		if err != nil {
			return nil, err
		}
		return &Referrers{Outcome: Outcome{Cache: Passed, Upstream: r.Upstream}, Index: r.Index}, nil
	}
	// A digest has no question mark, so the name of the list is unambiguous.
	key := listKey{n.repoID(repo), referrerList, dgst.String() + "?" + artifactType}
	r, err := listing(ctx, n, n.cache.referrers, key, ask)
	if err == nil || artifactType == "" {
		return r, err
	}
	// The unfiltered list may be kept even if this one is not.
	key.name = dgst.String() + "?"
	all, keptErr := keptListing[Referrers](ctx, n, key, err)
	if keptErr != nil {
		return nil, err
	}
	all.Index.Manifests = slices.DeleteFunc(all.Index.Manifests, func(d ocispec.Descriptor) bool {
		return d.ArtifactType != artifactType
	})
	return all, nil
}

// list is a pointer to an answer that embeds its Outcome.
type list[T any] interface {
	*T
	set(Outcome)
}

// listing asks the upstream for a list and keeps the answer for the time when the
// upstream fails. Callers with the same key at the same time share one answer.
func listing[T any, P list[T]](ctx context.Context, n *Namespace, lookups *flight.Group[shared[listKey], *T], key listKey, ask func(context.Context) (*T, error)) (*T, error) {
	if n.spec.Offline {
		// The kept answer is current by definition, and no failure is hidden.
		return keptListing[T, P](ctx, n, key, n.offline(string(key.kind)))
	}
	list, led, err := share(ctx, n, lookups, key, func(ctx context.Context) (*T, error) {
		list, err := ask(ctx)
		if err == nil {
			n.keepListing(ctx, key, list)
		}
		return list, err
	})
	if err != nil {
		return keptListing[T, P](ctx, n, key, err)
	}
	if !led {
		shared := *list // the leader's answer keeps its own outcome
		P(&shared).set(Outcome{Cache: Collapsed, Upstream: n.FirstUpstream()})
		return &shared, nil
	}
	return list, nil
}

func (n *Namespace) keepListing(ctx context.Context, key listKey, list any) {
	body, err := json.Marshal(list)
	if err == nil {
		err = n.cache.catalog.PutDocument(ctx, key.repo, string(key.kind), key.name, catalog.Document{Body: body, Checked: time.Now()})
	}
	recorded(n.cache.records, err, key.repo, "list", string(key.kind))
}

// keptListing returns the answer that was kept if the namespace answers this
// failure from the cache, and otherwise the failure.
func keptListing[T any, P list[T]](ctx context.Context, n *Namespace, key listKey, failure error) (*T, error) {
	doc, err := n.cache.catalog.Document(ctx, key.repo, string(key.kind), key.name)
	if err != nil {
		return nil, failure
	}
	o, ok := n.instead(failure, doc.Checked)
	if !ok {
		return nil, failure
	}
	kept := new(T)
	// A document that cannot be read counts as none: the failure says more.
	if err := json.Unmarshal(doc.Body, kept); err != nil {
		return nil, failure
	}
	P(kept).set(o)
	return kept, nil
}

// instead returns the outcome of an answer from the cache that was checked at a
// time and stands in for a failure: a hit while the namespace is offline, and else
// a stale answer. It reports false if the namespace returns the failure.
func (n *Namespace) instead(failure error, checked time.Time) (Outcome, bool) {
	if _, offline := errors.AsType[*OfflineError](failure); offline {
		return Outcome{Cache: Hit}, true
	}
	return n.stale(failure, checked)
}
