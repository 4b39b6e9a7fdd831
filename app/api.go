package app

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage"
)

// newAPI returns the handler of the API over the parts of a mirror.
func newAPI(cfg config.Global, parts *storageParts, e *engine, tables *namespace.Current, logger *slog.Logger) *api.Handler {
	stores := []storage.Store{parts.driver}
	if parts.bucket != nil {
		stores = append(stores, parts.bucket.store)
	}
	return api.New(api.Options{
		Names: &names{tables: tables, cache: e.cache},
		Inventory: inventory.New(inventory.Options{
			Catalog: parts.catalog, Stores: stores, Pulls: e.pulls, Referrers: e.cache, MaxManifest: int64(cfg.MaxManifestSize),
		}),
		Downloads: e.downloads,
		Logger:    logger,
	})
}

// names are the repositories that the API tells of: those of the table in force, without those
// whose upstream decides who may know of them.
type names struct {
	tables *namespace.Current
	cache  *namespace.Cache

	mu    sync.Mutex // of the repositories of one table and one list, which all requests read
	table *namespace.Table
	list  []storage.RepoID
	known []api.Repository
}

func (n *names) All(ctx context.Context) ([]api.Repository, error) {
	list, err := n.cache.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	table := n.tables.Load()
	n.mu.Lock()
	defer n.mu.Unlock()
	same := len(list) == len(n.list) && (len(list) == 0 || &list[0] == &n.list[0]) // in memory
	if n.table == table && same {
		return n.known, nil
	}
	known := make([]api.Repository, 0, len(list))
	for _, id := range list {
		if r, ok := named(table, id); ok {
			known = append(known, r)
		}
	}
	slices.SortFunc(known, func(a, b api.Repository) int { return cmp.Compare(a.Name, b.Name) })
	n.table, n.list, n.known = table, list, known
	return known, nil
}

func (n *names) Find(name string) (api.Repository, bool) { return find(n.tables.Load(), name) }

func (n *names) Of(id storage.RepoID) (api.Repository, bool) { return named(n.tables.Load(), id) }

// named returns the repository with an ID. It reports false if its name leads to the repository of
// another block, or to none any more.
func named(table *namespace.Table, id storage.RepoID) (api.Repository, bool) {
	r, ok := find(table, id.String())
	return r, ok && r.ID == id
}

func find(table *namespace.Table, name string) (api.Repository, bool) {
	ns, below, err := table.Resolve("", name)
	if err != nil || ns.OnBehalf() {
		return api.Repository{}, false
	}
	return api.Repository{ID: ns.Repository(below), Block: ns.Key(), Name: ns.Key() + "/" + below}, true
}

func (n *names) Sees(ctx context.Context, r api.Repository) bool {
	_, below, err := n.tables.Load().Resolve("", r.Name)
	return err == nil && sees(ctx, r.Block, below)
}
