package catalog_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
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

// A link in memory takes few bytes, since there are many, and its record has the fields of a
// descriptor, which earlier versions read.
func TestLinksInMemory(t *testing.T) {
	m := storagetest.NewMemory(t)
	c := catalog.New(m.Records(), catalog.Options{})
	const links = 4096
	blobs := make([]ocispec.Descriptor, links)
	for i := range blobs {
		blobs[i] = blob(fmt.Sprint(i))
		must(t, c.PutLink(t.Context(), app, blobs[i]))
	}
	key, err := catalog.LinkKey(app, blobs[0].Digest)
	must(t, err)
	document, err := m.Records().Get(t.Context(), key)
	must(t, err)
	if want := fmt.Sprintf(`{"mediaType":"","digest":%q,"size":%d,"proven":`, blobs[0].Digest, blobs[0].Size); !strings.HasPrefix(string(document), want) {
		t.Errorf("the record is %s", document)
	}
	again := catalog.New(m.Records(), catalog.Options{})
	before := heap()
	for _, b := range blobs {
		if got, err := again.Link(t.Context(), app, b.Digest); err != nil || got.Size != b.Size {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if each := (int64(heap()) - int64(before)) / links; each > 600 {
		t.Errorf("a link takes %d bytes", each)
	}
	runtime.KeepAlive(again)
}

// heap returns the bytes of the heap that are in use.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
