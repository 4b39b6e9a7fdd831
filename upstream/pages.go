package upstream

import (
	"crypto/sha256"
	"maps"
	"net/url"
	"slices"
	"strconv"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weirhq/weir/oci"
)

const (
	// maxPages bounds the memory for pages of lists, to less than a megabyte.
	maxPages = 4096
	// maxPagesBack bounds the work for one page: a circle of more pages is not noticed.
	maxPagesBack = 1000
)

// page is a page of a repository's tags: a hash, since queries may be long.
type page [sha256.Size]byte

// firstPage reports whether a query asks for the first page of a list: no parameter but
// the length of a page has a value.
func firstPage(query url.Values) bool { return len(withoutNumber(query)) == 0 }

func pageOf(repo string, query url.Values) page {
	return sha256.Sum256([]byte(strconv.Quote(repo) + withoutNumber(query).Encode()))
}

// pages remembers which page of a list led to which. The links of some registries lead
// in a circle, because they ignore parameters that these links have or lose their place.
// A client that follows them asks for each page by itself, so one page does not show it.
type pages struct {
	before *lru.Cache[page, page] // the page that led to a page last
}

func newPages() pages {
	before, err := lru.New[page, page](maxPages)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return pages{before}
}

// follow notes that a page leads to another one. It reports false if the other one came
// before it on the way from the first page.
func (p pages) follow(from, next page) bool {
	for at, n := from, 0; n < maxPagesBack; n++ {
		if at == next {
			return false
		}
		var ok bool
		if at, ok = p.before.Peek(at); !ok {
			break
		}
	}
	p.before.Add(next, from)
	return true
}

// leadsBack reports whether the next page of a list, which was asked for with a query,
// is one that was read before. Tags are sorted (distribution-spec, "Listing Tags"), so
// the last one of a page comes after that of the page before. Not all registries sort in
// the same way, so a last tag that is on the page is believed.
func (p pages) leadsBack(repo string, asked url.Values, list *oci.TagList) bool {
	switch {
	case list.Next == nil:
		return false
	case firstPage(list.Next):
		return true // no page leads to the first one
	}
	before, last := asked.Get("last"), list.Next.Get("last")
	if before != "" && last != "" && last <= before && !slices.Contains(list.Tags, last) {
		return true
	}
	return !p.follow(pageOf(repo, asked), pageOf(repo, list.Next))
}

// withoutNumber returns a query without empty parameters and without the length of a
// page, which make no other page of it.
func withoutNumber(query url.Values) url.Values {
	query = maps.Clone(query)
	delete(query, "n")
	maps.DeleteFunc(query, func(_ string, values []string) bool {
		return !slices.ContainsFunc(values, func(v string) bool { return v != "" })
	})
	return query
}
