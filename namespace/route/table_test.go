package route_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/oci"
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
		{"GHCR.io", "a/b", "ghcr.io", "a/b"},
		// A longer key serves its names, whichever way a client spells them.
		{"ghcr.io", "acme/app", "ghcr.io/acme", "app"},
		{"ghcr.io", "ghcr.io/acme/app", "ghcr.io/acme", "app"},
		{"GHCR.IO", "acme/deep/app", "ghcr.io/acme/deep", "app"},
		{"ghcr.io", "acmes/app", "ghcr.io", "acmes/app"},
		{"ghcr.io", "acme", "ghcr.io/acme", "acme"},
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

// A longer key serves its names also if the key of the host is another name, if the client names no
// registry, and if the name is a short one of Docker Hub.
func TestLongerKeyServesItsNames(t *testing.T) {
	table := newTable(t,
		route.Rule{Key: "hub", Host: "docker.io", DockerHub: true, Default: true},
		route.Rule{Key: "hub/acme"}, route.Rule{Key: "hub/library", DockerHub: true}, route.Rule{Key: "hub/library/library/redis"},
		route.Rule{Key: "hub/solo"}, route.Rule{Key: "docker.io/other"}, route.Rule{Key: "acme"},
	)
	for _, test := range []struct{ ns, name, key, repo string }{
		{"", "hub/acme/app", "hub/acme", "app"},
		{"docker.io", "acme/app", "hub/acme", "app"},
		{"registry-1.docker.io", "hub/acme/app", "hub/acme", "app"},
		{"", "acme/app", "acme", "app"}, // its own key
		{"", "hub/nginx", "hub/library", "library/nginx"},
		{"", "nginx", "hub/library", "library/nginx"},
		{"docker.io", "nginx", "hub/library", "library/nginx"},
		{"docker.io", "library/nginx", "hub/library", "library/nginx"},
		{"docker.io", "redis", "hub/library/library/redis", "redis"},
		{"", "solo", "hub/solo", "solo"},
		{"docker.io", "solo", "hub/solo", "solo"},
		{"", "grafana/grafana", "hub", "grafana/grafana"},
		{"", "docker.io/other/app", "docker.io/other", "app"},
		// The block of the host has another key, so this is hub/other/app.
		{"docker.io", "other/app", "hub", "other/app"},
	} {
		key, repo, err := table.Resolve(test.ns, test.name)
		if err != nil || key != test.key || repo != test.repo {
			t.Errorf("ns=%q %q: %v %q, %v; want %q %q", test.ns, test.name, key, repo, err, test.key, test.repo)
		}
		if byHost := table.ByHost(test.ns, test.name); byHost != (test.ns != "") {
			t.Errorf("ns=%q %q: by host: %t", test.ns, test.name, byHost)
		}
	}
}

// A full name, which access rules read, is one repository: by itself it leads to the repository that
// another spelling leads to.
func TestFullNameIsOneRepository(t *testing.T) {
	rules := append(manyBlocks(), route.Rule{Key: "docker.io/library", DockerHub: true}, route.Rule{Key: "docker.io/acme"}, route.Rule{Key: "ghcr.io/acme/app"},
		route.Rule{Key: "team/mirror/a"}, route.Rule{Key: "page.example", Host: "page.example", Added: true}, route.Rule{Key: "other.example/a", Added: true})
	table := newTable(t, rules...)
	names := []string{"nginx", "library/nginx", "acme", "acme/app", "acme/app/app", "acme/deep", "acme/deep/app", "a", "a/b", "mirror", "library"}
	for _, rule := range rules {
		names = append(names, rule.Key)
		for _, name := range names[:9] {
			names = append(names, rule.Key+"/"+name)
		}
	}
	for _, ns := range []string{"", "docker.io", "index.docker.io", "ghcr.io", "registry.example:5000", "page.example", "other.example", "unknown.example"} {
		for _, name := range names {
			key, repo, err := table.Resolve(ns, name)
			if err != nil {
				continue
			}
			if again, repoAgain, err := table.Resolve("", key+"/"+repo); err != nil || again != key || repoAgain != repo {
				t.Errorf("ns=%q %q is %q of %q, but its full name is %q of %q, %v", ns, name, repo, key, repoAgain, again, err)
			}
		}
	}
}

// An entry that a page has added serves only requests that no other entry serves.
func TestAddedEntryComesLater(t *testing.T) {
	table := newTable(t,
		route.Rule{Key: "hub", DockerHub: true, Default: true}, route.Rule{Key: "ghcr"}, route.Rule{Key: "quay.io/acme"},
		route.Rule{Key: "ghcr.io", Host: "ghcr.io", Added: true}, route.Rule{Key: "quay.io", Host: "quay.io", Added: true},
		route.Rule{Key: "gcr.io/team", Added: true},
	)
	for _, test := range []struct {
		ns, name, key, repo string
		byHost              bool
	}{
		{"ghcr.io", "acme/app", "ghcr.io", "acme/app", true},
		{"GHCR.IO", "ghcr.io/acme/app", "ghcr.io", "acme/app", true},
		{"", "ghcr.io/acme/app", "ghcr.io", "acme/app", false},
		{"ghcr.io", "ghcr/acme/app", "ghcr", "acme/app", false},
		{"ghcr.io", "hub/nginx", "hub", "library/nginx", false},
		{"ghcr.io", "quay.io/acme/app", "quay.io/acme", "app", false},
		{"quay.io", "quay.io/acme/app", "quay.io/acme", "app", true},
		{"quay.io", "acme/app", "quay.io/acme", "app", true},
		{"quay.io", "org/app", "quay.io", "org/app", true},
		// Another added entry: by its key only without ns, or with its own host.
		{"quay.io", "ghcr.io/acme/app", "quay.io", "ghcr.io/acme/app", true},
		{"unknown.example", "ghcr.io/acme/app", "", "", false},
		{"gcr.io", "gcr.io/team/app", "gcr.io/team", "app", false},
		{"", "gcr.io/team/app", "gcr.io/team", "app", false},
		{"quay.io", "gcr.io/team/app", "quay.io", "gcr.io/team/app", true},
		{"gcr.io", "team/app", "", "", false},
	} {
		key, repo, err := table.Resolve(test.ns, test.name)
		if key != test.key || repo != test.repo || (err == nil) != (test.key != "") || table.ByHost(test.ns, test.name) != test.byHost {
			t.Errorf("ns=%q %q: %v %q, %v, by host %t; want %q %q", test.ns, test.name, key, repo, err, table.ByHost(test.ns, test.name), test.key, test.repo)
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
		if err == nil && oci.ValidName(name) {
			if again, same, err := table.Resolve("", key+"/"+repo); err != nil || again != key || same != repo {
				t.Errorf("ns=%q %q is %q of %q, but its full name is %q of %q, %v", ns, name, repo, key, same, again, err)
			}
		}
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
