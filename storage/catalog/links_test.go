package catalog_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
)

func TestCatalogListsLinks(t *testing.T) {
	c, _ := newCatalog(t)
	other := storage.RepoID{Namespace: "ghcr.io", Name: "acme/app/below"}
	want := map[string]ocispec.Descriptor{}
	for _, link := range []ocispec.Descriptor{manifest("a manifest"), blob("a layer"), blob("another")} {
		must(t, c.PutLink(t.Context(), app, link))
		want[link.Digest.String()] = link
	}
	must(t, c.PutLink(t.Context(), other, blob("of another repository")))
	got := map[string]ocispec.Descriptor{}
	for link, err := range c.Links(t.Context(), app) {
		must(t, err)
		got[link.Digest.String()] = link
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	for range c.Links(t.Context(), app) {
		break // is the caller's to do
	}
	for _, err := range c.Links(t.Context(), storage.RepoID{Name: "nameless"}) {
		if err == nil {
			t.Error("a repository without a namespace has links")
		}
	}
}
