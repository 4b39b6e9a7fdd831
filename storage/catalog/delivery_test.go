package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
)

// A delivery is one of a namespace, and no link of a repository.
func TestDeliveries(t *testing.T) {
	c, m := newCatalog(t)
	long := digest.SHA512.FromString("layer")
	for _, key := range []string{"ghcr.io", "ghcr.io/acme", "localhost:5000"} {
		must(t, c.PutDelivery(t.Context(), key, blob("layer").Digest))
		must(t, c.PutDelivery(t.Context(), key, long))
	}
	puts := m.Calls("Put")
	must(t, c.PutDelivery(t.Context(), "ghcr.io", long))
	if n := m.Calls("Put") - puts; n != 0 {
		t.Errorf("a known delivery was written %d times", n)
	}
	for name, c := range map[string]*catalog.Catalog{"same": c, "restarted": catalog.New(m.Records(), catalog.Options{})} {
		for _, key := range []string{"ghcr.io", "ghcr.io/acme", "localhost:5000"} {
			if err := errors.Join(c.Delivered(t.Context(), key, blob("layer").Digest), c.Delivered(t.Context(), key, long)); err != nil {
				t.Errorf("%s: %s: %v", name, key, err)
			}
		}
		for _, key := range []string{"acme", "ghcr.io/acme/app", "docker.io", "localhost"} {
			if err := c.Delivered(t.Context(), key, long); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s: %s: %v", name, key, err)
			}
		}
		if err := c.Delivered(t.Context(), "ghcr.io", blob("another").Digest); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: another content: %v", name, err)
		}
		if _, err := c.Link(t.Context(), app, blob("layer").Digest); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: a delivery became a link: %v", name, err)
		}
	}
	for _, wrong := range []error{
		c.PutDelivery(t.Context(), "", long), c.PutDelivery(t.Context(), "ghcr.io", "sha256:../x"),
		c.Delivered(t.Context(), "", long), c.Delivered(t.Context(), "ghcr.io", "sha256:../x"),
	} {
		if wrong == nil {
			t.Error("no error for a key that cannot be")
		}
	}
}

// A damaged delivery counts as none, and the next one replaces it.
func TestDamagedDeliveries(t *testing.T) {
	dgst := blob("layer").Digest
	key := "ghcr.io/_deliveries/sha256/" + dgst.Encoded()
	for _, document := range []string{"", "{", "{}", "null", "[]", `"x"`, `{"digest":""}`, `{"digest":"` + blob("another").Digest.String() + `"}`} {
		c, m := newCatalog(t)
		must(t, m.Records().Put(t.Context(), key, []byte(document)))
		if err := c.Delivered(t.Context(), "ghcr.io", dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%q: %v", document, err)
		}
		must(t, c.PutDelivery(t.Context(), "ghcr.io", dgst))
		must(t, catalog.New(m.Records(), catalog.Options{}).Delivered(t.Context(), "ghcr.io", dgst))
	}
}

// The namespaces that keep their content are known after a restart. A damaged record, or
// one that cannot be read, is not taken for none.
func TestKeeping(t *testing.T) {
	c, m := newCatalog(t)
	if got, err := c.Keeping(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("Keeping = %q, %v", got, err)
	}
	for _, want := range [][]string{{"ghcr.io/acme", "localhost:5000"}, {}} {
		must(t, c.PutKeeping(t.Context(), want))
		if got, err := catalog.New(m.Records(), catalog.Options{}).Keeping(t.Context()); !slices.Equal(got, want) || err != nil {
			t.Errorf("Keeping = %q, %v, want %q", got, err, want)
		}
	}
	for _, document := range []string{"", "[", "{}", `["x", 1]`} {
		must(t, m.Records().Put(t.Context(), "_keeping", []byte(document)))
		if got, err := c.Keeping(t.Context()); err == nil {
			t.Errorf("%q: Keeping = %q", document, got)
		}
	}
	for _, broken := range []error{errors.New("scripted"), fmt.Errorf("%w: scripted", storage.ErrUnreadable)} {
		m.FailGet(broken)
		if got, err := c.Keeping(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Keeping = %q, %v", got, err)
		}
	}
}

// Deliveries go with the oldest records. The names of the namespaces stay.
func TestDeliveriesAreTrimmed(t *testing.T) {
	store, err := disk.Open(t.TempDir(), disk.Options{})
	must(t, err)
	defer store.Close()
	c := catalog.New(store.Records(), catalog.Options{})
	must(t, c.PutDelivery(t.Context(), "ghcr.io", blob("layer").Digest))
	must(t, c.PutKeeping(t.Context(), []string{"ghcr.io"}))
	report, err := c.Trim(t.Context(), store, 1, false)
	if must(t, err); report.Removed != 1 {
		t.Errorf("%d records were removed", report.Removed)
	}
	if err := c.Delivered(t.Context(), "ghcr.io", blob("layer").Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Delivered: %v", err)
	}
	if got, err := c.Keeping(t.Context()); len(got) != 1 || err != nil {
		t.Errorf("Keeping = %q, %v", got, err)
	}
}
