package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/weirhq/weir/storage"
)

// maxSorted is how many repositories are sorted by a figure: the records of all of them are read
// for that.
const maxSorted = 5000

// orders are the values of the parameter sort except "name". The largest comes first.
var orders = map[string]func(a, b figures) int{
	"size":  func(a, b figures) int { return cmp.Compare(b.size, a.size) },
	"pulls": func(a, b figures) int { return cmp.Compare(b.pulls, a.pulls) },
	"last":  func(a, b figures) int { return b.last.Compare(a.last) },
}

// Query selects repositories and one page of their list.
type Query struct {
	Block string // "" for all blocks
	Text  string // a part of the name
	Sort  string // "name", "size", "pulls" or "last"; "" for "name"
	N     int    // repositories on the page; 0 for 100
	Last  string // the last repository of the page before; "" for the first page
	// Soon is set if the list must not wait for figures that take long. Then they may be older
	// than a minute, or missing: see [NamedDocument.Counted].
	Soon bool
}

// repositories lists the repositories of the parameters.
func (h *Handler) repositories(ctx context.Context, r *http.Request) (any, error) {
	query := r.URL.Query()
	p, err := pageOf(query)
	if err != nil {
		return nil, err
	}
	document, err := h.Repositories(ctx, Query{query.Get("block"), query.Get("q"), query.Get("sort"), p.n, p.last, false})
	if document.Next != "" {
		document.Next = next(r, document.Next)
	}
	return document, err
}

// Repositories lists the cached repositories that the client may know of. Next is the last one of
// the page if there is another page.
func (h *Handler) Repositories(ctx context.Context, q Query) (RepositoriesDocument, error) {
	p, err := boundedPage(q.N, q.Last, q.Text, q.Block)
	if err != nil {
		return RepositoriesDocument{}, err
	}
	order := orders[q.Sort]
	if order == nil && q.Sort != "" && q.Sort != "name" {
		return RepositoriesDocument{}, invalid("the parameter sort must be name, size, pulls or last")
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names := ctx
	if q.Soon {
		names = patient
	}
	all, err := h.opts.Names.All(names)
	switch {
	case err != nil && names.Err() != nil && ctx.Err() == nil:
		return RepositoriesDocument{Listing: true}, nil
	case err != nil:
		return RepositoriesDocument{}, err
	}
	wanted := func(one Repository) bool {
		return (q.Block == "" || one.Block == q.Block) && strings.Contains(one.Name, q.Text) && h.opts.Names.Sees(ctx, one)
	}
	read := func(one Repository) (figures, error) { return h.figuresOf(ctx, patient, one.ID, q.Soon) }
	var found []Repository
	if order == nil {
		found = behind(all, p, wanted)
	} else if found, err = sorted(all, p, order, wanted, read); err != nil {
		return RepositoriesDocument{}, err
	}
	document := RepositoriesDocument{Repositories: []NamedDocument{}}
	for _, one := range found[:min(len(found), p.n)] {
		f, err := read(one)
		if err != nil {
			return RepositoriesDocument{}, err
		}
		document.Repositories = append(document.Repositories, NamedDocument{one.Name, one.Block, f.tags, f.size, f.pulls, f.last.UTC(), !f.read.IsZero()})
	}
	if len(found) > p.n {
		document.Next = found[p.n-1].Name
	}
	return document, ctx.Err() // the rules may not have been asked about all
}

// behind returns the wanted repositories behind the last one in the order of their names: those
// of a page, and one more if there is one.
func behind(all []Repository, p page, wanted func(Repository) bool) (found []Repository) {
	start, is := slices.BinarySearchFunc(all, p.last, func(r Repository, last string) int { return cmp.Compare(r.Name, last) })
	if is {
		start++
	}
	for _, one := range all[start:] {
		if wanted(one) {
			found = append(found, one)
		}
		if len(found) > p.n {
			break
		}
	}
	return found
}

// sorted returns the wanted repositories behind the last one in the order of a figure.
func sorted(all []Repository, p page, order func(a, b figures) int, wanted func(Repository) bool, read func(Repository) (figures, error)) ([]Repository, error) {
	var found []Repository
	for _, one := range all {
		if wanted(one) {
			found = append(found, one)
		}
		if len(found) > maxSorted {
			return nil, invalid("there are more than " + strconv.Itoa(maxSorted) + " repositories to sort. Set block or q, or sort by name")
		}
	}
	known := make(map[storage.RepoID]figures, len(found))
	for _, one := range found {
		f, err := read(one)
		if err != nil {
			return nil, err
		}
		known[one.ID] = f
	}
	slices.SortStableFunc(found, func(a, b Repository) int { return order(known[a.ID], known[b.ID]) }) // then by name
	if p.last == "" {
		return found, nil
	}
	at := slices.IndexFunc(found, func(r Repository) bool { return r.Name == p.last })
	if at < 0 {
		return nil, invalid("the repository in the parameter last is no longer in the list. Start again without last")
	}
	return found[at+1:], nil
}
