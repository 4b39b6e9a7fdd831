package app

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage"
)

// newAPI returns the handler of the API over the parts of a mirror.
func newAPI(cfg config.Global, m *mirror, logger *slog.Logger) *api.Handler {
	parts, e, tables := m.storage, m.engine, &m.routing.tables
	stores := []storage.Store{parts.driver}
	if parts.bucket != nil {
		stores = append(stores, parts.bucket.store)
	}
	known := &names{tables: tables, cache: e.cache}
	return api.New(api.Options{
		Names: known, Refresher: known, Remover: newRemover(cfg, parts, e.cache), Pins: pinner{parts.pins}, Warmer: warmer{m.warmings},
		Inventory: inventory.New(inventory.Options{
			Catalog: parts.catalog, Stores: stores, Pulls: e.pulls, Referrers: e.cache, MaxManifest: int64(cfg.MaxManifestSize),
		}),
		Downloads: e.downloads,
		State:     m.state, Traffic: e.traffic, Recent: e.recent,
		Address: func(r *http.Request) netip.Addr { return m.routing.proxies.Load().Address(r) },
		Rules:   inForce,
		Logger:  logger,
	})
}

// names are the repositories that the API lists: those of the table in force, without those
// whose upstream decides which clients may see them.
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

func (n *names) Find(name string) (api.Repository, bool) {
	return resolved(n.tables.Load().Resolve("", name))
}

func (n *names) Of(id storage.RepoID) (api.Repository, bool) { return named(n.tables.Load(), id) }

// named returns the repository with an ID. It reports false if its name leads to the repository of
// another block, or to none any more.
func named(table *namespace.Table, id storage.RepoID) (api.Repository, bool) {
	r, ok := resolved(table.Resolve("", id.String()))
	return r, ok && r.ID == id
}

// resolved returns the repository that a table has resolved a name to. It reports false if there
// is none, or if its upstream decides which clients may see it.
func resolved(ns *namespace.Namespace, below string, err error) (api.Repository, bool) {
	if err != nil || ns.OnBehalf() {
		return api.Repository{}, false
	}
	return api.Repository{ID: ns.Repository(below), Block: ns.Key(), Name: ns.Key() + "/" + below}, true
}

// Refresh asks the upstream of a repository about a tag.
func (n *names) Refresh(ctx context.Context, r api.Repository, tag string) (*namespace.Manifest, error) {
	ns, below, err := n.tables.Load().Resolve("", r.Name)
	if err != nil {
		return nil, err // a reload has removed the block
	}
	return ns.Refresh(ctx, below, tag)
}

func (n *names) Sees(ctx context.Context, r api.Repository) bool {
	return n.Permits(ctx, r, api.Question{Action: access.GetManifest})
}

func (n *names) Permits(ctx context.Context, r api.Repository, q api.Question) bool {
	_, below, err := n.tables.Load().Resolve("", r.Name)
	return err == nil && isTold(ctx, access.Question{
		Action: q.Action, Block: r.Block, Name: below, Namespace: r.Block + "/" + below, Reference: q.Reference, Digest: q.Digest,
	})
}

// guardAPI lets those clients pass to the API or the pages that may read them or, with another method
// than GET and HEAD, change the cache.
//
// Without rules, changes are for clients on this machine. A name that a foreign page has made
// lead to this machine (DNS rebinding) is not an address of it, and a request that a proxy has passed
// on may come from anywhere. With rules, changes need a known sender.
func (g guard) guardAPI(next http.Handler, refuse refusal) http.Handler {
	reads, changes := g.handler(access.ReadAPI, next, refuse), g.handler(access.ChangeAPI, next, refuse)
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet || r.Method == http.MethodHead:
			reads.ServeHTTP(w, r)
		case origins.Check(r) != nil:
			refuse(w, "", errOtherSite)
		default:
			changes.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether a request was sent on this machine, to a loopback address, by a client
// and not by a proxy on this machine. Proxies add headers. One without them speaks HTTP/1.0, as
// nginx does by default, which no client of today does.
func (g guard) isLocal(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	for header := range r.Header {
		if strings.HasPrefix(header, "X-Forwarded-") || strings.HasPrefix(header, "X-Original-") || slices.Contains(ofProxies, header) {
			return false
		}
	}
	return r.ProtoAtLeast(1, 1) && hosts.Loopback(strings.Trim(host, "[]")) && g.proxies.Load().Address(r).Unmap().IsLoopback()
}

// ofProxies are the headers that proxies add to requests, besides X-Forwarded-* and X-Original-*.
var ofProxies = []string{
	"Cdn-Loop", "Cf-Connecting-Ip", "Client-Ip", "Fastly-Client-Ip", "Forwarded", "Proxy-Connection", "True-Client-Ip", "Via",
	"X-Client-Ip", "X-Cluster-Client-Ip", "X-Envoy-External-Address", "X-Real-Ip",
}
