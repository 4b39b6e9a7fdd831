package app

import (
	"sync/atomic"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/forwarded"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage/evict"
)

// routing leads from names to namespaces and to the clients of their upstreams, and holds
// the rules that say for whom. A changed configuration swaps all of it at once; requests that have begun end with
// the namespaces that they began with.
type routing struct {
	clients    *clients
	tables     namespace.Current
	access     access.Current
	proxies    forwarded.Current // that tell which client a rule is about
	guarding   *access.Metrics
	issuers    issuers
	engine     *engine
	store      *evict.Store
	requests   *registry.Metrics
	registries atomic.Pointer[registries] // of the table in force
}

// apply puts the namespaces of a configuration in force, or changes nothing and
// returns an error. Upstreams that did not change keep their connections and their
// health.
func (r *routing) apply(cfg *config.Config) error {
	next := make(clientSet)
	table, read, err := r.table(cfg, next)
	var rules *access.Rules
	var issuers []issuer
	if err == nil {
		rules, issuers, err = r.rules(cfg)
	}
	if err != nil {
		r.clients.drop(next)
		return err
	}
	// Eviction follows all manifests that the new clients may deliver.
	r.store.SetMaxManifest(int64(cfg.Global.MaxManifestSize))
	r.store.SetShared(len(table.Namespaces()) > 1)
	r.store.SetBlocks(blockCaps(cfg))
	r.issuers.current = issuers
	r.proxies.Store(cfg.TrustedProxies())
	r.access.Store(rules) // before the table, see there
	r.tables.Store(table)
	r.registries.Store(&read)
	r.requests.SetNamespaces(table)
	r.clients.commit(next)
	r.clients.bandwidth.Set(int64(cfg.Global.MaxBandwidth))
	r.clients.denied.inForce.Store(cfg)
	r.engine.warmer.Apply(table.KeepWarm())
	return nil
}

func (r *routing) table(cfg *config.Config, next clientSet) (*namespace.Table, registries, error) {
	translated, err := translate(cfg, r.clients, next)
	if err != nil {
		return nil, nil, err
	}
	specs := make([]namespace.Spec, len(translated))
	for i, t := range translated {
		specs[i] = t.spec
	}
	table, err := namespace.NewTable(r.engine.cache, specs)
	return table, registriesOf(translated), err
}

// rules returns the access rules of a configuration, and the issuers in them.
func (r *routing) rules(cfg *config.Config) (*access.Rules, []issuer, error) {
	next, err := r.issuers.next(cfg)
	if err != nil {
		return nil, nil, err
	}
	list := make([]*access.Issuer, len(next))
	for i, one := range next {
		list[i] = one.Issuer
	}
	rules, err := translateAccess(cfg, list, r.guarding)
	return rules, next, err
}

// keys returns the keys of the namespaces in force.
func (r *routing) keys() []string {
	var keys []string
	for _, ns := range r.tables.Load().Namespaces() {
		keys = append(keys, ns.Key())
	}
	return keys
}

func (r *routing) close() { r.clients.close() }
