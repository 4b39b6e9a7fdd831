package route_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/weirhq/weir/namespace/route"
)

// newTable returns a table whose values are the keys of its entries.
func newTable(t testing.TB, rules ...route.Rule) *route.Table[string] {
	t.Helper()
	table, err := newKeys(rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func newKeys(rules []route.Rule) (*route.Table[string], error) {
	var entries []route.Entry[string]
	for _, rule := range rules {
		entries = append(entries, route.Entry[string]{Rule: rule, Value: rule.Key})
	}
	return route.New(entries...)
}

func manyBlocks() []route.Rule {
	return []route.Rule{
		{Key: "docker.io", Host: "docker.io", DockerHub: true, Default: true},
		{Key: "library", DockerHub: true},
		{Key: "ghcr.io", Host: "ghcr.io"},
		{Key: "ghcr.io/acme"},
		{Key: "ghcr.io/acme/deep"},
		{Key: "team/mirror", Host: "Registry.Example:5000"},
		{Key: "hub/library", DockerHub: true},
		{Key: "localhost:5000"},
	}
}

func TestResolve(t *testing.T) {
	table := newTable(t, manyBlocks()...)
	for _, test := range []struct{ ns, name, key, repo string }{
		// The longest key of whole segments.
		{"", "ghcr.io/a/b", "ghcr.io", "a/b"},
		{"", "ghcr.io/acme/app", "ghcr.io/acme", "app"},
		{"", "ghcr.io/acme/deep/app", "ghcr.io/acme/deep", "app"},
		{"", "ghcr.io/acmes/app", "ghcr.io", "acmes/app"},
		{"", "ghcr.io/acme-x/app", "ghcr.io", "acme-x/app"},
		{"", "team/mirror/a", "team/mirror", "a"},
		{"", "localhost:5000/a/b", "localhost:5000", "a/b"},
		// A name equal to the key maps to its last segment.
		{"", "ghcr.io", "ghcr.io", "ghcr.io"},
		{"", "team/mirror", "team/mirror", "mirror"},
		{"", "hub/library", "hub/library", "library/library"},
		// Docker Hub's names of one segment.
		{"", "docker.io/nginx", "docker.io", "library/nginx"},
		{"", "docker.io/library/nginx", "docker.io", "library/nginx"},
		{"", "docker.io/grafana/grafana", "docker.io", "grafana/grafana"},
		{"", "library/nginx", "library", "library/nginx"},
		{"", "hub/library/nginx", "hub/library", "library/nginx"},
		{"", "ghcr.io/nginx", "ghcr.io", "nginx"},
		// The default takes names whole.
		{"", "nginx", "docker.io", "library/nginx"},
		{"", "grafana/grafana", "docker.io", "grafana/grafana"},
		{"", "ghcr/app", "docker.io", "ghcr/app"},
		{"", "a/quay.io/b", "docker.io", "a/quay.io/b"},
		{"", "team/other", "docker.io", "team/other"},
		// ns selects a block, and the name is whole but for its key.
		{"ghcr.io", "a/b", "ghcr.io", "a/b"},
		{"ghcr.io", "ghcr.io/a/b", "ghcr.io", "a/b"},
		{"ghcr.io", "acme/app", "ghcr.io", "acme/app"},
		{"GHCR.io", "a/b", "ghcr.io", "a/b"},
		{"ghcr.io", "docker.io/nginx", "ghcr.io", "docker.io/nginx"},
		{"registry.example:5000", "a", "team/mirror", "a"},
		{"REGISTRY.example:5000", "team/mirror/a", "team/mirror", "a"},
		{"docker.io", "nginx", "docker.io", "library/nginx"},
		{"docker.io", "library/nginx", "docker.io", "library/nginx"},
		{"docker.io", "docker.io/nginx", "docker.io", "library/nginx"},
		{"index.docker.io", "nginx", "docker.io", "library/nginx"},
		{"registry-1.docker.io", "a/b", "docker.io", "a/b"},
		{"Registry-1.Docker.IO", "a/b", "docker.io", "a/b"},
		// With a host that no entry has, only a key leads to an entry: an explicit
		// prefix in the client's configuration.
		{"registry.example", "ghcr.io/a", "ghcr.io", "a"},
		{"registry.example", "team/mirror/a", "team/mirror", "a"},
		{"ghcr.io:443", "localhost:5000/a", "localhost:5000", "a"},
	} {
		key, repo, err := table.Resolve(test.ns, test.name)
		if err != nil || key != test.key || repo != test.repo {
			t.Errorf("ns=%q %q: %v %q, %v; want %q %q", test.ns, test.name, key, repo, err, test.key, test.repo)
		}
	}
}

// TestResolveByAnyNameOfDockerHub has the block declare another of the three.
func TestResolveByAnyNameOfDockerHub(t *testing.T) {
	for _, declared := range []string{"docker.io", "index.docker.io", "registry-1.docker.io"} {
		table := newTable(t, route.Rule{Key: "hub", Host: declared, DockerHub: true})
		for _, ns := range []string{"docker.io", "index.docker.io", "registry-1.docker.io"} {
			if _, repo, err := table.Resolve(ns, "nginx"); err != nil || repo != "library/nginx" {
				t.Errorf("%s for %s: %q, %v", ns, declared, repo, err)
			}
		}
	}
}

func isUnknown(err error) bool {
	_, ok := errors.AsType[*route.UnknownError](err)
	return ok
}

func TestResolveUnknown(t *testing.T) {
	table := newTable(t, route.Rule{Key: "ghcr.io", Host: "ghcr.io"}, route.Rule{Key: "quay.io"})
	for _, name := range []string{"nginx", "ghcr.iox/a", "ghcr", "a/ghcr.io"} {
		_, _, err := table.Resolve("", name)
		if !isUnknown(err) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "ghcr.io, quay.io") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The default entry is not asked for an image of another registry: its own registry
// may have an image of that name, which would be a substitution, and it must not
// learn the names of private ones.
func TestDefaultIsNotAskedForOtherRegistries(t *testing.T) {
	table := newTable(t, manyBlocks()...)
	for _, test := range []struct{ ns, name, nearest string }{
		{"quay.io", "org/app", ""},
		{"evil.example", "nginx", ""},
		{"ghcr.io/acme", "nginx", "ghcr.io/acme/nginx"},
		{"ghrc.io", "acme/app", "ghcr.io/acme/app"},
		{"GHRC.IO", "acme/app", "ghcr.io/acme/app"},
		{"dokcer.io", "nginx", "docker.io/nginx"},
		{"registry1.docker.io", "nginx", ""},
		{"ghcr.io.", "nginx", "ghcr.io/nginx"},
		{" ", "nginx", ""},
		{"localhost", "nginx", ""},
		{"registry.example:500", "a", "team/mirror/a"}, // by host
		{strings.Repeat("x", 5000), "nginx", ""},
		{"", "quay.io/org/app", ""},
		{"", "quay.io", ""},
		{"", "ghcr.iox/app", "ghcr.io/app"},
		{"", "ghrc.io/acme/app", "ghcr.io/acme/app"},
		{"", "localhost/app", ""},
		{"", "localhost:5001/app", "localhost:5000/app"},
		{"", "10.0.0.1:5000/app", ""},
		{"", "index.docker.io/library/nginx", "docker.io/library/nginx"},
		{"", "registry.example:5000/a", "team/mirror/a"}, // by host
		{"", "nginx.io/a", ""},
	} {
		key, repo, err := table.Resolve(test.ns, test.name)
		unknown, ok := errors.AsType[*route.UnknownError](err)
		if !ok || key != "" || repo != "" {
			t.Errorf("ns=%.20q %q: %q %q, %v; want an UnknownError", test.ns, test.name, key, repo, err)
			continue
		}
		if test.nearest != "" && unknown.Nearest != test.nearest || test.nearest == "" && strings.Contains(err.Error(), "did you mean") {
			t.Errorf("ns=%.20q %q: nearest is %q, want %q", test.ns, test.name, unknown.Nearest, test.nearest)
		}
		if len(err.Error()) > 600 {
			t.Errorf("ns=%.20q: a message of %d bytes", test.ns, len(err.Error()))
		}
	}
}

// One organisation has a block of its own, and the rest of its registry has none.
func TestDefaultIsNotAskedBesideLongerKey(t *testing.T) {
	table := newTable(t, route.Rule{Key: "docker.io", Host: "docker.io", DockerHub: true, Default: true}, route.Rule{Key: "ghcr.io/acme"})
	for _, name := range []string{"ghcr.io/other/app", "ghcr.io/acmes/app", "ghcr.io"} {
		if _, _, err := table.Resolve("", name); !isUnknown(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, rules := range map[string][]route.Rule{
		"same key":     {{Key: "a"}, {Key: "a"}},
		"same host":    {{Key: "a", Host: "docker.io"}, {Key: "b", Host: "Index.Docker.io"}},
		"two defaults": {{Key: "a", Default: true}, {Key: "b", Default: true}},
	} {
		if _, err := newKeys(rules); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, name := range []string{"", "/", "nginx", "docker.io", "docker.io/", "docker.io//x", "ghcr.io/acme", "ghcr.io/acmex", "library/nginx", "a/../b"} {
		for _, ns := range []string{"", "docker.io", "GHCR.IO", "evil"} {
			f.Add(ns, name)
		}
	}
	blocks := manyBlocks()
	table := newTable(f, blocks...)
	strict := newTable(f, blocks[1:]...) // without a default
	f.Fuzz(func(t *testing.T, ns, name string) {
		key, repo, err := table.Resolve(ns, name)
		if first, _, _ := strings.Cut(name, "/"); err != nil && (ns != "" || strings.ContainsAny(first, ".:") || first == "localhost") {
			return // the client means a registry that no entry mirrors
		}
		if err != nil || repo == "" {
			t.Fatalf("with a default there is an answer, not %q, %v", repo, err)
		}
		if tail := strings.TrimPrefix(repo, "library/"); repo != name && tail != name && !strings.HasSuffix(name, tail) && name != "" && strings.TrimSuffix(name, "/") != key {
			t.Errorf("%q became %q", name, repo)
		}
		key, _, err = strict.Resolve("", name)
		if err != nil {
			if !isUnknown(err) {
				t.Errorf("%q: %v", name, err)
			}
			return
		}
		if !strings.HasPrefix(name+"/", key+"/") {
			t.Errorf("%q is answered by %q", name, key)
		}
		for _, other := range strict.Values() {
			if len(other) > len(key) && strings.HasPrefix(name+"/", other+"/") {
				t.Errorf("%q is answered by %q, not by %q", name, key, other)
			}
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	table := newTable(b, manyBlocks()...)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := table.Resolve("", "ghcr.io/acme/app"); err != nil {
			b.Fatal(err)
		}
	}
}
