// Package route finds the configured entry that serves a repository name.
//
// A [Table] maps names to values of any type: to namespaces in the mirror, to
// settings in a check of the configuration. It is pure and immutable. An entry is
// found, in this order,
//
//  1. by its host, if the client sends one that an entry has: containerd's
//     parameter ns (GET /v2/acme/app/...?ns=ghcr.io),
//  2. by its key, if the name begins with it, the longest key first: with the
//     keys ghcr.io and ghcr.io/acme, the second one serves ghcr.io/acme/app,
//  3. as the default, unless the client means another registry: it sends the host
//     of one, or the name begins with one (quay.io/org/app). The default entry
//     would answer with the image of the same name of its own registry, or tell
//     that registry the name of a private image.
package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/oci"
)

// Rule says which names an entry serves.
type Rule struct {
	// Key is the first segments of the names that the entry serves.
	Key string
	// Host is the value of the ns parameter that selects the entry; "" for none.
	Host string
	// Default is set if the entry serves every name without a registry's host that
	// no key matches.
	Default bool
	// DockerHub is set if the entry mirrors Docker Hub, where a name of one segment
	// is short for one below library/.
	DockerHub bool
}

// Entry is a value and the names that it serves.
type Entry[T any] struct {
	Rule
	Value T
}

// Table is an immutable set of entries. The zero Table serves no name.
type Table[T any] struct {
	byLength []*Entry[T]          // longest key first
	byHost   map[string]*Entry[T] // by canonical host
	fallback *Entry[T]            // the default one, or nil
}

// New returns a table of entries. It returns an error if two of them claim the
// same key, the same host or the default.
func New[T any](entries ...Entry[T]) (*Table[T], error) {
	t := &Table[T]{byHost: make(map[string]*Entry[T])}
	keys := make(map[string]bool)
	for _, entry := range entries {
		e := &entry
		if keys[e.Key] {
			return nil, fmt.Errorf("two namespaces have the key %q", e.Key)
		}
		keys[e.Key] = true
		t.byLength = append(t.byLength, e)
		// Hosts are compared in one form: Docker Hub has three names.
		if host := oci.CanonicalHost(e.Host); host != "" {
			if other := t.byHost[host]; other != nil {
				return nil, fmt.Errorf("the namespaces %q and %q both answer ns=%s", other.Key, e.Key, host)
			}
			t.byHost[host] = e
		}
		// Of two defaults the order of the file would decide, by accident.
		if e.Default {
			if t.fallback != nil {
				return nil, fmt.Errorf("the namespaces %q and %q are both the default", t.fallback.Key, e.Key)
			}
			t.fallback = e
		}
	}
	// The longest key that matches is found first, and equal lengths have a
	// fixed order for messages.
	slices.SortFunc(t.byLength, func(a, b *Entry[T]) int {
		return cmp.Or(cmp.Compare(len(b.Key), len(a.Key)), cmp.Compare(a.Key, b.Key))
	})
	return t, nil
}

// Values returns the values of all entries, those with the longest keys first.
func (t *Table[T]) Values() []T {
	values := make([]T, len(t.byLength))
	for i, e := range t.byLength {
		values[i] = e.Value
	}
	return values
}

// Resolve returns the value of the entry that serves a name, and the upstream
// repository that the name stands for. ns is the value of the ns parameter, or "".
// Resolve returns an *UnknownError if no entry serves the name.
func (t *Table[T]) Resolve(ns, name string) (value T, repo string, err error) {
	if e := t.byHost[oci.CanonicalHost(ns)]; e != nil {
		return e.Value, e.Upstream(name), nil
	}
	// A client with an explicit prefix in its configuration names an entry by key,
	// whatever the host that it sends along.
	for _, e := range t.byLength {
		if rest, ok := oci.CutKey(name, e.Key); ok {
			return e.Value, e.expand(rest), nil
		}
	}
	// Only a name without any host can be meant for the default entry.
	first, _, _ := strings.Cut(name, "/")
	if e := t.fallback; e != nil && ns == "" && !oci.IsHost(first) {
		return e.Value, e.expand(name), nil
	}
	return value, "", t.unknown(ns, name)
}

// Upstream returns the upstream repository of a name that the entry serves. A
// leading key is stripped if present: with the key ghcr.io, both ghcr.io/acme/app
// and acme/app stand for acme/app.
func (r Rule) Upstream(name string) string {
	if rest, ok := oci.CutKey(name, r.Key); ok {
		name = rest
	}
	return r.expand(name)
}

// expand maps the part of a name after the key to the upstream repository: an
// empty rest becomes the key's last segment, and on Docker Hub "nginx" becomes
// "library/nginx".
func (r Rule) expand(rest string) string {
	if rest == "" {
		rest = r.Key[strings.LastIndexByte(r.Key, '/')+1:]
	}
	// Only Docker Hub has short names: elsewhere "nginx" is a repository.
	if r.DockerHub && !strings.Contains(rest, "/") {
		return "library/" + rest
	}
	return rest
}
