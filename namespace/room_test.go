package namespace_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/storagetest"
)

// slowDeletes is a store that takes long to delete.
type slowDeletes struct{ storage.Store }

func (s slowDeletes) Delete(ctx context.Context, dgst digest.Digest) error {
	time.Sleep(500 * time.Millisecond)
	return s.Store.Delete(ctx, dgst)
}

// A manifest for which room has to be made first is answered at once and stored
// behind the answer, with its tag.
func TestManifestDoesNotWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := evict.NewQuota(10_000)
		memory := storagetest.NewMemoryWithin(t, quota)
		limit := evict.New(slowDeletes{memory}, quota, evict.Options{})
		t.Cleanup(func() {
			if err := limit.Close(); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // its index is loaded
		m := newMirrorOver(t, memory, limit, 4, nil)
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		blob := r.AddRandomBlob("app", 9_900, 1)
		if got := getBlob(t, n, "app", blob); got.err != nil {
			t.Fatal(got.err)
		}
		synctest.Wait()
		desc := r.AddImage("app", "v1", []byte("a layer"))

		r.ResetRequests()
		began := time.Now()
		wantManifest(t, get(t, n, "app", "v1"), namespace.Passed, desc)
		if took := time.Since(began); took != 0 {
			t.Errorf("the manifest was held up for %v", took)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantManifest(t, get(t, n, "app", desc.Digest.String()), namespace.Hit, desc)
		wantManifest(t, get(t, n, "app", "v1"), namespace.Revalidated, desc)
		wantRequests(t, r, manifestRequest("GET", "app", "v1", 200), manifestRequest("HEAD", "app", "v1", 200))
	})
}
