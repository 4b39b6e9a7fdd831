package namespace

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// maxKeptPage bounds the first page of a list that is kept, in bytes: registries
	// without pages send up to 100,000 tags in one.
	maxKeptPage = 8 << 20
	// maxKeptList bounds the list to which a further page is added, in bytes. Each
	// page writes the whole list again.
	maxKeptList = 1 << 20
	// keptFor is how long a list that has not changed is not written again.
	keptFor = time.Minute
)

// keptTags is the list of a repository's tags that is kept: one for each repository,
// whatever clients ask for. It grows page by page along the links of the upstream, so
// that no query that a client invents makes a record.
type keptTags struct {
	Pages []keptPage `json:"pages"`
}

// readKept returns the list of a document, an empty one if it cannot be read. Older
// documents are one page.
func readKept(doc catalog.Document) keptTags {
	var kept struct {
		keptTags
		keptPage
	}
	// A local user may have replaced the record.
	if oci.CheckShape(doc.Body) != nil || json.Unmarshal(doc.Body, &kept) != nil {
		return keptTags{} // it is replaced
	}
	if len(kept.Pages) == 0 && len(kept.Tags) > 0 {
		kept.Checked = doc.Checked
		kept.Pages = []keptPage{kept.keptPage}
	}
	return kept.keptTags
}

// keptPage is a page of a list, as an upstream answered it.
type keptPage struct {
	Query   string     `json:"query"` // that led to it, without n
	Tags    []string   `json:"tags"`
	Next    url.Values `json:"next,omitempty"` // the query of the next page; nil if this is the last one
	Checked time.Time  `json:"checked"`
}

// pageOf returns the part of a query that decides where a page begins: all of it but
// the number of names. It is empty for the first page.
func pageOf(query url.Values) string {
	query = maps.Clone(query)
	delete(query, "n")
	return query.Encode()
}

// size is about how many bytes the list has in its record.
func (k keptTags) size() (bytes int) {
	for _, page := range k.Pages {
		bytes += len(page.Query) + len(page.Next.Encode())
		for _, tag := range page.Tags {
			bytes += len(tag) + len(`"",`)
		}
	}
	return bytes
}

// add adds or replaces a page. It reports whether the list has changed.
func (k *keptTags) add(page keptPage) bool {
	at := slices.IndexFunc(k.Pages, func(known keptPage) bool { return known.Query == page.Query })
	last := len(k.Pages) - 1
	switch {
	case at >= 0:
	case page.Query == "" && len(page.Tags) > 0 || last >= 0 && k.Pages[last].Next != nil && pageOf(k.Pages[last].Next) == page.Query:
		at = len(k.Pages)
	default: // no upstream's link has led there, or there is nothing to keep
		return false
	}
	next := keptTags{append(slices.Clone(k.Pages[:at]), page)}
	if at <= last {
		known := k.Pages[at]
		same := slices.Equal(known.Tags, page.Tags) && known.Next.Encode() == page.Next.Encode()
		// A smaller n shows less of the same page.
		shorter := page.Next != nil && len(page.Tags) < len(known.Tags) && slices.Equal(known.Tags[:len(page.Tags)], page.Tags)
		switch age := page.Checked.Sub(known.Checked); {
		case shorter, same && age >= 0 && age < keptFor:
			return false
		case same:
			next.Pages = append(next.Pages, k.Pages[at+1:]...)
		}
	}
	if size := next.size(); size > maxKeptPage || size > maxKeptList && len(next.Pages) > 1 {
		return false // the link of the page before leads on
	}
	*k = next
	return true
}

// answer returns the part of the list that a query selects, and the time when the
// oldest page of it was checked. It returns nil if the list does not lead there.
func (k keptTags) answer(query url.Values) (*Tags, time.Time) {
	from := slices.IndexFunc(k.Pages, func(page keptPage) bool { return page.Query == pageOf(query) })
	var tags []string
	oldest := time.Now()
	for _, page := range k.Pages[max(0, from):] {
		tags = append(tags, page.Tags...)
		if page.Checked.Before(oldest) {
			oldest = page.Checked
		} else if page.Checked.After(time.Now()) { // by a clock that ran ahead
			oldest = time.Time{}
		}
	}
	if from < 0 {
		// A client may begin after any tag. Not all registries sort, so its place counts.
		at := slices.Index(tags, query.Get("last"))
		if at < 0 || len(k.Pages) == 0 {
			return nil, time.Time{}
		}
		tags = tags[at+1:]
	}
	list := &Tags{Next: k.Pages[len(k.Pages)-1].Next}
	page, more := oci.Page(tags, url.Values{"n": query["n"]})
	if list.Tags = page; more {
		list.Next = url.Values{"n": query["n"], "last": {page[len(page)-1]}}
	}
	return list, oldest
}

// keepTags keeps a page of a repository's tags if the pages before it are kept.
func (n *Namespace) keepTags(ctx context.Context, key listKey, query url.Values, list *Tags) {
	now := time.Now()
	ctx = context.WithoutCancel(ctx) // it is worth keeping, even if all clients have left
	// The kept list may be long although the page is short.
	release, err := n.longKept.Take(ctx)
	if err != nil {
		return // cannot be: the context does not end
	}
	defer release()
	err = n.cache.catalog.UpdateDocument(ctx, key.repo, string(key.kind), "", func(doc catalog.Document) (catalog.Document, bool) {
		kept := readKept(doc)
		if !kept.add(keptPage{Query: pageOf(query), Tags: list.Tags, Next: list.Next, Checked: now}) {
			return doc, false
		}
		body, err := json.Marshal(kept)
		return catalog.Document{Body: body, Checked: now}, err == nil
	})
	recorded(n.cache.records, err, key.repo, "list", string(key.kind))
}

// keptTags answers a failure from the list that was kept. It returns nil if there is
// none, or if the namespace does not answer this failure from the cache.
func (n *Namespace) keptTags(ctx context.Context, repo storage.RepoID, query url.Values, failure error) *Tags {
	release, err := n.longKept.Take(ctx)
	if err != nil {
		return nil
	}
	defer release()
	doc, err := n.cache.catalog.Document(ctx, repo, string(tagList), "")
	if err != nil {
		return nil
	}
	list, checked := readKept(doc).answer(query)
	if list == nil {
		return nil
	}
	var ok bool
	if list.Outcome, ok = n.instead(ctx, repo, failure, checked); !ok {
		return nil
	}
	return list
}
