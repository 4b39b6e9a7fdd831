package registry

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
)

func (p *pull) tags() error {
	list, err := p.ns.Tags(p.ctx, p.repo, p.req.Query)
	if err != nil {
		return err
	}
	p.setCacheStatus(list.Outcome)
	p.entry.keepPrivate(p.w)
	if list.Next != nil {
		next := linkQuery(list.Next)
		if p.req.NS != "" {
			next.Set("ns", p.req.NS)
		}
		linkNext(p.w, "/v2/"+p.req.Name+"/tags/list", next)
	}
	// The grammar of names has no character that JSON would escape.
	writeList(p.w, "application/json", `{"name":"`+p.req.Name+`","tags":[`, list.Tags, "]}")
	return nil
}

func (p *pull) referrers() error {
	artifactType := p.req.Query.Get("artifactType")
	list, err := p.ns.Referrers(p.ctx, p.repo, p.req.Digest, artifactType)
	if err != nil {
		return err
	}
	p.setCacheStatus(list.Outcome)
	p.entry.keepPrivate(p.w)
	if artifactType != "" {
		p.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeList(p.w, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[`, list.Index.Manifests, "]}")
	return nil
}

// catalogNames are the names of the cached repositories, sorted, for one table and one
// list. All requests read the same ones.
type catalogNames struct {
	mu    sync.Mutex
	table *namespace.Table
	list  []storage.RepoID
	names []catalogName
}

// catalogName is a repository and the name by which clients pull it.
type catalogName struct {
	name string
	repo storage.RepoID
}

// of returns the names of a list.
func (c *catalogNames) of(table *namespace.Table, list []storage.RepoID) []catalogName {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table != table || !same(c.list, list) {
		names := make([]catalogName, 0, len(list))
		for _, repo := range list {
			if name := nameOf(table, repo); name != "" {
				names = append(names, catalogName{name, repo})
			}
		}
		slices.SortFunc(names, func(a, b catalogName) int { return cmp.Compare(a.name, b.name) })
		c.table, c.list, c.names = table, list, names
	}
	return c.names
}

// same reports whether two lists are one list in memory.
func same(a, b []storage.RepoID) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// maxCatalogPage is the number of names on a page of the catalog. A client that asks for
// more, or for all, follows the link.
const maxCatalogPage = 1000

// catalog lists the cached repositories of the namespaces in force that the client may
// pull from.
func (h *Handler) catalog(w http.ResponseWriter, r *http.Request, req Request, table *namespace.Table, v visitor) error {
	list, err := h.opts.Cache.Repositories(r.Context())
	if err != nil {
		return err
	}
	n := maxCatalogPage
	if asked, err := strconv.Atoi(req.Query.Get("n")); err == nil {
		n = min(n, asked)
	}
	query := url.Values{"n": {strconv.Itoa(n)}, "last": {req.Query.Get("last")}}
	page, more := seenNames(r.Context(), h.names.of(table, list), query.Get("last"), n, v)
	if more && len(page) == 0 {
		return errSlowRules
	}
	if more {
		query.Set("last", page[len(page)-1])
		linkNext(w, "/v2/_catalog", query)
	}
	writeJSON(w, http.StatusOK, "application/json", map[string][]string{"repositories": page})
	return nil
}

// nameOf returns the name by which clients pull a repository. It returns "" if that
// name leads to none, since its namespace is no longer configured, or to another one:
// {ghcr.io, acme/app} is not pulled as ghcr.io/acme/app if there is a ghcr.io/acme. So it
// does for a repository whose upstream decides which clients may see it.
func nameOf(table *namespace.Table, repo storage.RepoID) string {
	ns, name, err := table.Resolve("", repo.String())
	if err != nil || (storage.RepoID{Namespace: ns.Key(), Name: name}) != repo {
		return ""
	}
	// No upstream has said that the client may know of the repository.
	if ns.OnBehalf() {
		return ""
	}
	return ns.Key() + "/" + name
}

// maxLooking bounds the time for one page of the catalog, which a webhook may take for
// each name.
const maxLooking = 5 * time.Second

// seenNames returns the first n names after last that a client may know of, and whether
// there may be more, as if the time was too short for all of them.
func seenNames(ctx context.Context, names []catalogName, last string, n int, v visitor) (page []string, more bool) {
	ctx, cancel := context.WithTimeout(ctx, maxLooking)
	defer cancel()
	start, found := slices.BinarySearchFunc(names, last, func(c catalogName, last string) int { return cmp.Compare(c.name, last) })
	if found {
		start++
	}
	page = []string{}
	if n == 0 { // asks for no name
		return page, false
	}
	for _, candidate := range names[start:] {
		seen := v.sees(ctx, candidate.repo)
		if ctx.Err() != nil { // there was no decision
			return page, true
		}
		if !seen {
			continue
		}
		if len(page) == n {
			return page, true
		}
		page = append(page, candidate.name)
	}
	return page, false
}

// linkNext adds the Link header to the next page of a list (RFC 8288).
func linkNext(w http.ResponseWriter, path string, query url.Values) {
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}

// writeList writes a list between two parts of a document, piece by piece. All clients that
// asked at the same time share a long list, and a whole document for each slow one would
// take as much memory again.
func writeList[T any](w http.ResponseWriter, contentType, before string, list []T, after string) {
	w.Header().Set("Content-Type", contentType)
	piece, whole := []byte(before), true
	for i, item := range list {
		if i > 0 {
			piece = append(piece, ',')
		}
		piece = append(piece, marshal(item)...)
		if len(piece) < listPiece {
			continue
		}
		if _, err := w.Write(piece); err != nil {
			return // the client has left
		}
		piece, whole = piece[:0], false
	}
	piece = append(piece, after...)
	if whole {
		w.Header().Set("Content-Length", strconv.Itoa(len(piece)))
	}
	_, _ = w.Write(piece) // a client that has left is noticed by its context
}

// listPiece is about how much of a list is encoded at once, in bytes. Most lists are one
// piece.
const listPiece = 64 << 10
