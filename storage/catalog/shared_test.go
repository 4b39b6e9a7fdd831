package catalog_test

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// Shared records are read at each use, so that the change of another mirror shows. A check
// that is not worth a write is remembered until then.
func TestSharedRecords(t *testing.T) {
	memory, repo := storagetest.NewMemory(t), storage.RepoID{Namespace: "ghcr.io", Name: "org/app"}
	ours := catalog.New(memory.Records(), catalog.Options{Shared: true})
	theirs := catalog.New(memory.Records(), catalog.Options{Shared: true})
	first, second := digest.FromString("first"), digest.FromString("second")
	start := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	tag := func(dgst digest.Digest, checked time.Time) catalog.Tag {
		return catalog.Tag{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst, Size: 9}, Checked: checked}
	}
	put := func(c *catalog.Catalog, value catalog.Tag) {
		t.Helper()
		if err := c.PutTag(t.Context(), repo, "v1", value); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(c *catalog.Catalog, want catalog.Tag) {
		t.Helper()
		got, err := c.Tag(t.Context(), repo, "v1")
		if err != nil || got.Descriptor.Digest != want.Descriptor.Digest || !got.Checked.Equal(want.Checked) {
			t.Errorf("Tag = %s at %v, %v, want %s at %v", got.Descriptor.Digest, got.Checked, err, want.Descriptor.Digest, want.Checked)
		}
	}
	put(ours, tag(first, start))
	writes := memory.Calls("Put")
	put(ours, tag(first, start.Add(30*time.Second)))
	if n := memory.Calls("Put"); n != writes {
		t.Errorf("a check after 30 s made %d writes", n-writes)
	}
	expect(ours, tag(first, start.Add(30*time.Second)))
	expect(theirs, tag(first, start))
	put(theirs, tag(second, start.Add(40*time.Second)))
	expect(ours, tag(second, start.Add(40*time.Second)))

	if err := ours.PutLink(t.Context(), repo, ocispec.Descriptor{Digest: first, Size: 9}); err != nil {
		t.Fatal(err)
	}
	if err := theirs.DeleteLink(t.Context(), repo, first); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Link(t.Context(), repo, first); err == nil {
		t.Error("a right that another mirror has withdrawn still holds")
	}
}

// The records of a catalog are told from those that others keep beside them, such as private
// keys.
func TestOwns(t *testing.T) {
	memory, repo := storagetest.NewMemory(t), storage.RepoID{Namespace: "ghcr.io/acme", Name: "org/app"}
	c, dgst := catalog.New(memory.Records(), catalog.Options{}), digest.FromString("x")
	for _, err := range []error{
		c.PutTag(t.Context(), repo, "v1", catalog.Tag{Descriptor: ocispec.Descriptor{Digest: dgst, Size: 9}, Checked: time.Now()}),
		c.PutLink(t.Context(), repo, ocispec.Descriptor{Digest: dgst, Size: 9}),
		c.PutDocument(t.Context(), repo, "tags", "all", catalog.Document{Body: []byte("{}"), Checked: time.Now()}),
		c.PutDelivery(t.Context(), repo.Namespace, dgst),
		c.PutKeeping(t.Context(), []string{"ghcr.io"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	owned := 0
	for key, err := range memory.Records().List(t.Context(), "") {
		if owned++; err != nil || !catalog.Owns(key) {
			t.Errorf("%q, %v: no record of the catalog", key, err)
		}
	}
	if owned != 5 {
		t.Errorf("%d records, want 5", owned)
	}
	for _, key := range []string{"_acme/certificates/key.pem", "_acme", "x", "a/b/c", "_keeping/x"} {
		if catalog.Owns(key) {
			t.Errorf("%q counts as a record of the catalog", key)
		}
	}
}
