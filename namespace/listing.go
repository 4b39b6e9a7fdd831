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
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// Tags is a page of a repository's tags.
type Tags struct {
	Outcome `json:"-"`
	Tags    []string   `json:"tags"`
	Next    url.Values `json:"next,omitempty"` // the query of the next page; nil when this is the last
}

// Referrers is the index of what refers to a manifest.
type Referrers struct {
	Outcome `json:"-"`
	Index   ocispec.Index `json:"index"`
}

// Tags returns the upstream's page of tags for a query (n, last, and what else
// a registry's own links carry). When the upstream fails it returns what that
// said before or, where it was never asked, the tags that are cached.
func (n *Namespace) Tags(ctx context.Context, repo string, query url.Values) (*Tags, error) {
	id := n.id(repo)
	list, err := listing(ctx, n, n.cache.tags, id, "tags", query.Encode(), func(ctx context.Context) (*Tags, error) {
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
	if local := n.localTags(ctx, id, query, err); local != nil {
		return local, nil
	}
	return nil, err
}

// localTags pages through the tags that are cached, by the rules of the
// distribution-spec ("Listing Tags"). It returns nil where there are none, or
// where the failure is not one that the namespace answers from the cache.
func (n *Namespace) localTags(ctx context.Context, id storage.RepoID, query url.Values, failure error) *Tags {
	names, err := n.cache.catalog.Tags(ctx, id)
	if err != nil {
		n.log.Warn("cannot list the tags that are cached", "repository", id.String(), "error", err)
		return nil
	}
	oldest := time.Now()
	names = slices.DeleteFunc(names, func(name string) bool {
		tag, err := n.cache.catalog.Tag(ctx, id, name)
		if err != nil || !n.spec.Offline && n.tooOld(tag.Checked) {
			return true
		}
		if tag.Checked.Before(oldest) {
			oldest = tag.Checked
		}
		return false
	})
	if len(names) == 0 {
		return nil
	}
	list := &Tags{Outcome: Outcome{Cache: Hit}}
	if !errors.Is(failure, ErrOffline) {
		var ok bool
		if list.Outcome, ok = n.stale(failure, oldest); !ok {
			return nil
		}
	}
	page, more := Page(names, query)
	list.Tags = page
	if more {
		list.Next = url.Values{"n": query["n"], "last": {page[len(page)-1]}}
	}
	return list
}

// Referrers returns the upstream's index of the referrers of a digest, of one
// artifact type or, when that is empty, all of them. When the upstream fails it
// returns what that said before.
func (n *Namespace) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*Referrers, error) {
	ask := func(ctx context.Context) (*Referrers, error) {
		r, err := n.spec.Upstreams.Referrers(ctx, repo, dgst, artifactType)
		if err != nil {
			return nil, err
		}
		return &Referrers{Outcome: Outcome{Cache: Passed, Upstream: r.Upstream}, Index: r.Index}, nil
	}
	name := dgst.String() + "?" + artifactType
	r, err := listing(ctx, n, n.cache.referrers, n.id(repo), "referrers", name, ask)
	if err == nil || artifactType == "" {
		return r, err
	}
	// The unfiltered answer may have been kept where this one was not.
	all, lookup := keptListing[Referrers](ctx, n, n.id(repo), "referrers", dgst.String()+"?", err)
	if lookup != nil {
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

// listing asks the upstream for a list and keeps the answer for when the
// upstream fails. All who ask for the same at once share one answer.
func listing[T any, P list[T]](ctx context.Context, n *Namespace, lookups *flight.Group[question, *T], id storage.RepoID, kind, name string, ask func(context.Context) (*T, error)) (*T, error) {
	if n.spec.Offline {
		return keptListing[T, P](ctx, n, id, kind, name, n.offline(kind))
	}
	list, led, err := share(ctx, lookups, question{id, kind, name}, func(ctx context.Context) (*T, error) {
		list, err := ask(ctx)
		if err == nil {
			n.keepListing(ctx, id, kind, name, list)
		}
		return list, err
	})
	if err != nil {
		return keptListing[T, P](ctx, n, id, kind, name, err)
	}
	if !led {
		shared := *list
		P(&shared).set(Outcome{Cache: Collapsed, Upstream: n.FirstUpstream()})
		return &shared, nil
	}
	return list, nil
}

func (n *Namespace) keepListing(ctx context.Context, id storage.RepoID, kind, name string, list any) {
	body, err := json.Marshal(list)
	if err == nil {
		err = n.cache.catalog.PutDocument(ctx, id, kind, name, catalog.Document{Body: body, Checked: time.Now()})
	}
	n.cache.recorded(err, id, "list", kind)
}

// keptListing returns the answer that was kept, where failure is one that the
// namespace answers from the cache, and otherwise failure.
func keptListing[T any, P list[T]](ctx context.Context, n *Namespace, id storage.RepoID, kind, name string, failure error) (*T, error) {
	doc, err := n.cache.catalog.Document(ctx, id, kind, name)
	if err != nil {
		return nil, failure
	}
	o := Outcome{Cache: Hit}
	if !errors.Is(failure, ErrOffline) {
		var ok bool
		if o, ok = n.stale(failure, doc.Checked); !ok {
			return nil, failure
		}
	}
	kept := new(T)
	if err := json.Unmarshal(doc.Body, kept); err != nil {
		return nil, failure
	}
	P(kept).set(o)
	return kept, nil
}
