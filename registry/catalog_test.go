package registry_test

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// countedRecords counts listings, and makes each one take a moment.
type countedRecords struct {
	storage.Records
	listings atomic.Int32
}

func (r *countedRecords) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	r.listings.Add(1)
	time.Sleep(10 * time.Millisecond)
	return r.Records.List(ctx, prefix)
}

type catalogPage struct{ Repositories []string }

// A hundred clients ask at once for the catalog of a large store, in any way that they
// like. They share one listing of the records and one list of names, and a page has 1000
// names at most. Before, each request listed all records, and answered with all names.
func TestCatalogIsShared(t *testing.T) {
	const repositories = 2500
	r := upstreamtest.New(t)
	memory := storagetest.NewMemory(t)
	records := &countedRecords{Records: memory.Records()}
	m := newMirrorOver(t, memory, records, memory.Spools(), block(t, r))
	written := catalog.New(records, catalog.Options{})
	for i := range repositories {
		repo := storage.RepoID{Namespace: "up.example", Name: fmt.Sprintf("app%05d", i)}
		if err := written.PutLink(t.Context(), repo, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var all sync.WaitGroup
	for i := range 100 {
		query := []string{"", "?n=100000", "?n=7", "?n=0", "?last=up.example/app01000", "?last=zzz&n=1", "?x=" + fmt.Sprint(i)}[i%7]
		all.Go(func() {
			if w := m.do("GET", "/v2/_catalog"+query); w.Code != 200 || w.Body.Len() > 1000*25 {
				t.Errorf("%q: %d with %d bytes", query, w.Code, w.Body.Len())
			}
		})
	}
	all.Wait()
	runtime.ReadMemStats(&after)
	if n := records.listings.Load(); n != 1 {
		t.Errorf("the records were listed %d times", n)
	}
	// Without the shared list, each client cost a list of all names.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 30<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
	pages, links := follow[catalogPage](t, m, "/v2/_catalog")
	if len(pages) != 3 || len(pages[0].Repositories) != 1000 || len(pages[2].Repositories) != 500 {
		t.Errorf("%d pages", len(pages))
	}
	if want := (url.Values{"n": {"1000"}, "last": {"up.example/app00999"}}).Encode(); len(links) == 0 || links[0].Encode() != want {
		t.Errorf("links: %v", links)
	}
	pages, _ = follow[catalogPage](t, m, "/v2/_catalog?n=2000&last=up.example/app01499")
	if len(pages) != 1 || len(pages[0].Repositories) != 1000 {
		t.Errorf("%d pages after the middle", len(pages))
	}
	// A new repository is listed at once, without a listing of the records.
	r.AddImage("zz/new", "v1", []byte("new"))
	wantStatus(t, m.do("GET", "/v2/up.example/zz/new/manifests/v1"), 200)
	if w := m.do("GET", "/v2/_catalog?last=up.example/app02499"); w.Body.String() != `{"repositories":["up.example/zz/new"]}` {
		t.Errorf("a new repository: %s", w.Body)
	}
	if n := records.listings.Load(); n != 1 {
		t.Errorf("the records were listed %d times", n)
	}
}
