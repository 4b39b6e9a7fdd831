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
//
// The key of the entry goes before the name, unless the name begins with it. If a
// longer key begins this full name, its entry serves the name: acme/app?ns=ghcr.io is
// ghcr.io/acme/app. So a full name is one repository, however a client spells it, and
// access rules can rely on it.
//
// Entries that a page has added ([Rule.Added]) come later, so that they take no name
// from another entry.
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
	// Added is set if a page has added the entry. Its host comes after all keys. Its key
	// answers only requests without ns, or with the host that the key begins with. So no
	// request that another entry has served leads to it, if its key is not below another
	// key and begins with the host of no other entry.
	Added bool
}

// Entry is a value and the names that it serves.
type Entry[T any] struct {
	Rule
	Value T

	below []*Entry[T] // those with keys below this key, longest key first; set by New
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
	for _, e := range t.byLength {
		for _, other := range t.byLength {
			if other != e && oci.Below(other.Key, e.Key) {
				e.below = append(e.below, other)
			}
		}
	}
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
	e, rest, _ := t.find(ns, name)
	if e == nil {
		return value, "", t.unknown(ns, name)
	}
	value, repo = e.resolve(rest)
	return value, repo, nil
}

// ByHost reports whether ns decides which entry serves a name, and not the name alone.
func (t *Table[T]) ByHost(ns, name string) bool {
	_, _, byHost := t.find(ns, name)
	return byHost
}

// find returns the entry that a request means, and the part of the name after its key. The
// entry is nil if there is none. An entry with a longer key may serve the name.
func (t *Table[T]) find(ns, name string) (e *Entry[T], rest string, byHost bool) {
	host := t.byHost[oci.CanonicalHost(ns)]
	if host != nil && !host.Added {
		return host, host.cutKey(name), true
	}
	// A client with an explicit prefix in its configuration names an entry by key,
	// whatever the host that it sends along.
	for _, e := range t.byLength {
		if rest, ok := oci.CutKey(name, e.Key); ok && e.answersKey(ns) {
			return e, rest, host != nil && oci.Below(e.Key, host.Key)
		}
	}
	if host != nil {
		return host, host.cutKey(name), true
	}
	// Only a name without any host can be meant for the default entry.
	first, _, _ := strings.Cut(name, "/")
	if t.fallback != nil && ns == "" && !oci.IsHost(first) {
		return t.fallback, name, false
	}
	return nil, "", false
}

// resolve returns the value of the entry that serves a name below the key, which is this one
// or one with a longer key, and the upstream repository.
func (e *Entry[T]) resolve(rest string) (value T, repo string) {
	repo = e.expand(rest)
	// A longer key may begin the short name of Docker Hub or the whole one:
	// docker.io/nginx or docker.io/library.
	for _, spelling := range [...]string{rest, repo} {
		for _, inner := range e.below {
			if innerRest, ok := oci.CutKey(spelling, inner.Key[len(e.Key)+1:]); ok {
				return inner.resolve(innerRest)
			}
		}
	}
	return e.Value, repo
}

// answersKey reports whether the entry serves names that begin with its key in requests
// with a value of ns, or without one.
func (r Rule) answersKey(ns string) bool {
	first, _, _ := strings.Cut(r.Key, "/")
	return !r.Added || ns == "" || oci.SameHost(ns, first)
}

// Upstream returns the upstream repository of a name that the entry serves. A
// leading key is stripped if present: with the key ghcr.io, both ghcr.io/acme/app
// and acme/app stand for acme/app.
func (r Rule) Upstream(name string) string { return r.expand(r.cutKey(name)) }

// cutKey returns the part of a name after the key, or the whole name if it does not begin
// with the key.
func (r Rule) cutKey(name string) string {
	if rest, ok := oci.CutKey(name, r.Key); ok {
		return rest
	}
	return name
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
