package namespace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/weirhq/weir/oci"
)

// Table is an immutable set of namespaces.
type Table struct {
	byLength []*Namespace          // longest key first
	byHost   map[string]*Namespace // by canonical host
	fallback *Namespace            // the default one, or nil
}

// Live holds the table that is in force.
type Live = atomic.Pointer[Table]

// NewTable makes a table over a cache. It returns an error when a tag pattern
// does not compile or two specs claim the same key, host or default.
func NewTable(cache *Cache, specs []Spec) (*Table, error) {
	t := &Table{byHost: make(map[string]*Namespace)}
	keys := make(map[string]bool)
	for _, spec := range specs {
		n, err := newNamespace(cache, spec)
		if err != nil {
			return nil, err
		}
		if keys[spec.Key] {
			return nil, fmt.Errorf("two namespaces have the key %q", spec.Key)
		}
		keys[spec.Key] = true
		t.byLength = append(t.byLength, n)
		if host := oci.CanonicalHost(spec.Host); host != "" {
			if other := t.byHost[host]; other != nil {
				return nil, fmt.Errorf("the namespaces %q and %q both answer ns=%s", other.Key(), spec.Key, host)
			}
			t.byHost[host] = n
		}
		if spec.Default {
			if t.fallback != nil {
				return nil, fmt.Errorf("the namespaces %q and %q are both the default", t.fallback.Key(), spec.Key)
			}
			t.fallback = n
		}
	}
	slices.SortFunc(t.byLength, func(a, b *Namespace) int {
		return cmp.Or(cmp.Compare(len(b.Key()), len(a.Key())), cmp.Compare(a.Key(), b.Key()))
	})
	return t, nil
}

// Namespaces returns all namespaces, those with the longest keys first.
func (t *Table) Namespaces() []*Namespace { return t.byLength }

// Resolve returns the namespace that answers a name, and the repository's name
// within it. ns is the value of containerd's ns parameter, or "". It returns
// ErrNameUnknown when no namespace answers.
func (t *Table) Resolve(ns, name string) (*Namespace, string, error) {
	if n := t.byHost[oci.CanonicalHost(ns)]; n != nil {
		return n, n.own(name), nil
	}
	for _, n := range t.byLength {
		if rest, ok := oci.CutKey(name, n.Key()); ok {
			return n, n.repository(rest), nil
		}
	}
	if t.fallback != nil {
		return t.fallback, t.fallback.repository(name), nil
	}
	return nil, "", t.unknown(name)
}

// own is the name below the namespace that a name stands for which is this
// namespace's, whether or not it begins with the key.
func (n *Namespace) own(name string) string {
	if rest, ok := oci.CutKey(name, n.Key()); ok {
		name = rest
	}
	return n.repository(name)
}

// repository is the name below the namespace that what is left of a name after
// its key stands for.
func (n *Namespace) repository(rest string) string {
	if rest == "" {
		rest = n.spec.Key[strings.LastIndexByte(n.spec.Key, '/')+1:]
	}
	if n.spec.DockerHub && !strings.Contains(rest, "/") {
		return "library/" + rest
	}
	return rest
}
