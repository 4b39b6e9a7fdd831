package namespace

import (
	"sync/atomic"

	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/namespace/route"
)

// Table is an immutable set of namespaces, found by the names that they serve.
type Table struct {
	*route.Table[*Namespace]
}

// Current holds the table that is in force.
type Current = atomic.Pointer[Table]

// NewTable returns a table of namespaces over a cache. From then on the cache lends
// content between namespaces as the specs say. NewTable returns an error if a tag
// pattern does not compile, or if two specs claim the same key, the same host or the
// default.
func NewTable(cache *Cache, specs []Spec) (*Table, error) {
	entries := make([]route.Entry[*Namespace], len(specs))
	for i, spec := range specs {
		n, err := newNamespace(cache, spec)
		if err != nil {
			return nil, err
		}
		entries[i] = route.Entry[*Namespace]{Rule: spec.Rule(), Value: n}
	}
	routes, err := route.New(entries...)
	if err != nil {
		return nil, err
	}
	cache.lendAs(specs)
	return &Table{routes}, nil
}

// Namespaces returns all namespaces, those with the longest keys first.
func (t *Table) Namespaces() []*Namespace { return t.Values() }

// KeepWarm returns all namespaces as a [keepwarm.Warmer] sees them.
func (t *Table) KeepWarm() []keepwarm.Namespace {
	var all []keepwarm.Namespace
	for _, n := range t.Values() {
		all = append(all, n)
	}
	return all
}
