package catalog_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestPrune(t *testing.T) {
	c, m := newCatalog(t)
	below := storage.RepoID{Namespace: app.Namespace, Name: app.Name + "/below"}
	dead := storage.RepoID{Namespace: app.Namespace, Name: "acme/dead"}
	listed := storage.RepoID{Namespace: app.Namespace, Name: "acme/listed"} // never pulled from
	for _, repo := range []storage.RepoID{app, below, dead} {
		must(t, c.PutLink(t.Context(), repo, manifest("old")))
		must(t, c.PutLink(t.Context(), repo, blob("old layer")))
		must(t, c.PutTag(t.Context(), repo, "old", catalog.Tag{Descriptor: manifest("old"), Checked: checked}))
	}
	for _, repo := range []storage.RepoID{app, below, dead, listed} {
		must(t, c.PutDocument(t.Context(), repo, "tags", "?n=1", catalog.Document{Checked: checked}))
	}
	must(t, c.PutLink(t.Context(), app, manifest("new")))
	must(t, c.PutTag(t.Context(), app, "new", catalog.Tag{Descriptor: manifest("new"), Checked: checked}))
	must(t, c.PutLink(t.Context(), below, blob("new layer")))
	for _, content := range []string{"old layer", "new layer"} {
		must(t, c.PutDelivery(t.Context(), app.Namespace, blob(content).Digest))
	}
	must(t, c.PutDelivery(t.Context(), "dead", blob("old layer").Digest))
	must(t, c.PutKeeping(t.Context(), []string{"dead"}))
	must(t, m.Records().Put(t.Context(), "ghcr.io/acme/dead/_tags/garbage", []byte("{")))
	must(t, m.Records().Put(t.Context(), "foreign", []byte("not ours")))
	before := keys(t, m)

	gone := func(_ context.Context, dgst digest.Digest) (bool, error) {
		return dgst == manifest("old").Digest || dgst == blob("old layer").Digest, nil
	}
	want := catalog.PruneReport{Tags: 4, Links: 6, Repositories: 1}
	got, err := c.Prune(t.Context(), catalog.PruneOptions{Gone: gone, DryRun: true})
	if got != want || err != nil {
		t.Errorf("dry run: Prune = %+v, %v, want %+v", got, err, want)
	}
	if after := keys(t, m); !slices.Equal(after, before) {
		t.Errorf("a dry run left %q of %q", after, before)
	}
	got, err = c.Prune(t.Context(), catalog.PruneOptions{Gone: gone})
	if got != want || err != nil {
		t.Errorf("Prune = %+v, %v, want %+v", got, err, want)
	}
	if repos, err := c.Repositories(t.Context()); !slices.Equal(repos, []storage.RepoID{app, below}) || err != nil {
		t.Errorf("Repositories = %v, %v", repos, err)
	}
	if _, err := c.Link(t.Context(), app, manifest("old").Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a pruned link: %v", err)
	}
	if _, err := c.Tag(t.Context(), app, "new"); err != nil {
		t.Errorf("a tag of what is stored: %v", err)
	}
	if _, err := c.Link(t.Context(), below, blob("new layer").Digest); err != nil {
		t.Errorf("a link of what is stored: %v", err)
	}
	for repo, kept := range map[storage.RepoID]bool{app: true, below: true, dead: false, listed: true} {
		if _, err := c.Document(t.Context(), repo, "tags", "?n=1"); errors.Is(err, storage.ErrNotExist) == kept {
			t.Errorf("the document of %s: %v", repo, err)
		}
	}
	if err := c.Delivered(t.Context(), app.Namespace, blob("old layer").Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a delivery of content that is gone: %v", err)
	}
	must(t, c.Delivered(t.Context(), app.Namespace, blob("new layer").Digest))
	if got, err := c.Keeping(t.Context()); !slices.Equal(got, []string{"dead"}) || err != nil {
		t.Errorf("Keeping = %q, %v", got, err)
	}
	if after := keys(t, m); len(after) != len(before)-13 || !slices.Contains(after, "foreign") {
		t.Errorf("left %q of %q", after, before)
	}
	if got, err := c.Prune(t.Context(), catalog.PruneOptions{Gone: gone}); got != (catalog.PruneReport{}) || err != nil {
		t.Errorf("again: Prune = %+v, %v", got, err)
	}
}

// Nothing is forgotten while it is not known whether a blob is stored.
func TestPruneFails(t *testing.T) {
	c, m := newCatalog(t)
	must(t, c.PutLink(t.Context(), app, manifest("one")))
	fault := errors.New("scripted")
	_, err := c.Prune(t.Context(), catalog.PruneOptions{Gone: func(context.Context, digest.Digest) (bool, error) { return false, fault }})
	if !errors.Is(err, fault) || len(keys(t, m)) != 1 {
		t.Errorf("Prune: %v, left %q", err, keys(t, m))
	}
	must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_tags/v1", []byte("{}")))
	m.FailGet(fault)
	_, err = c.Prune(t.Context(), catalog.PruneOptions{Gone: func(context.Context, digest.Digest) (bool, error) { return true, nil }})
	if !errors.Is(err, fault) {
		t.Errorf("Prune with tags that cannot be read: %v", err)
	}
}

func keys(t *testing.T, m *storagetest.Memory) []string {
	t.Helper()
	var keys []string
	for key, err := range m.Records().List(t.Context(), "") {
		must(t, err)
		keys = append(keys, key)
	}
	return keys
}
