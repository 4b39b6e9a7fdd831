package namespace_test

import (
	"io"
	"log/slog"
	"testing"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// newTable returns a table that can resolve names, and no more.
func newTable(t testing.TB, specs ...namespace.Spec) (*namespace.Table, error) {
	t.Helper()
	store := storagetest.NewMemory(t)
	cache := namespace.NewCache(namespace.CacheOptions{
		Store: store, Spools: store.Spools(), Catalog: catalog.New(store.Records(), catalog.Options{}),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	return namespace.NewTable(cache, specs)
}

func TestTableFindsNamespaces(t *testing.T) {
	table, err := newTable(t, namespace.Spec{Key: "docker.io", Host: "docker.io", DockerHub: true}, namespace.Spec{Key: "ghcr.io"})
	if err != nil {
		t.Fatal(err)
	}
	if n, repo, err := table.Resolve("registry-1.docker.io", "nginx"); err != nil || n.Key() != "docker.io" || repo != "library/nginx" {
		t.Errorf("%v %q, %v", n, repo, err)
	}
}

func TestNewTableRefuses(t *testing.T) {
	for name, specs := range map[string][]namespace.Spec{
		"same key": {{Key: "a"}, {Key: "a"}},
		"pattern":  {{Key: "a", ImmutableTags: true, ImmutableTagsExclusions: []string{"("}}},
	} {
		if _, err := newTable(t, specs...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
