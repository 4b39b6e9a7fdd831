package namespace_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// The list of repositories is read again after five seconds, since weir gc may have
// removed some. One that comes meanwhile is added.
func TestRepositories(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		want := func(names ...string) {
			t.Helper()
			list, err := m.cache.Repositories(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]bool)
			for _, repo := range list {
				got[repo.Name] = true
			}
			for _, name := range names {
				if !got[name] {
					t.Errorf("%s is missing in %v", name, list)
				}
			}
			if len(got) != len(names) || len(list) != len(names) {
				t.Errorf("got %v, want %q", list, names)
			}
		}
		r.AddImage("one", "v1", []byte("one"))
		get(t, n, "one", "v1")
		want("one")
		r.AddImage("two", "v1", []byte("two"))
		get(t, n, "two", "v1")
		want("one", "two")
		for _, key := range m.recordKeys(t) {
			if err := m.store.Records().Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		want("one", "two")
		time.Sleep(6 * time.Second)
		want()
		r.AddImage("three", "v1", []byte("three"))
		get(t, n, "three", "v1")
		want("three")
		if list, err := m.cache.Repositories(t.Context()); err != nil || list[0] != (storage.RepoID{Namespace: "up.example", Name: "three"}) {
			t.Errorf("%v, %v", list, err)
		}
	})
}

// slowList are records whose listing takes long.
type slowList struct {
	storage.Records
	takes time.Duration
}

func (s *slowList) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	select {
	case <-time.After(s.takes):
		return s.Records.List(ctx, prefix)
	case <-ctx.Done():
		return func(yield func(string, error) bool) { yield("", ctx.Err()) }
	}
}

// While the records are listed again for long, callers get the list before.
func TestOlderListStandsInForALateOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storagetest.NewMemory(t)
		records := &slowList{Records: store.Records()}
		m := newMirrorWith(t, store, store, 4, nil, "", func(o *namespace.CacheOptions) { o.Catalog = catalog.New(records, catalog.Options{}) })
		r := m.registry("up.example")
		r.AddImage("one", "v1", []byte("one"))
		get(t, m.namespace("up.example", r), "one", "v1")
		list := func(want int, most time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := m.cache.Repositories(t.Context())
			if took := time.Since(began); err != nil || len(got) != want || took > most {
				t.Errorf("%v after %s: %v", got, took, err)
			}
		}
		list(1, 0)
		for _, key := range m.recordKeys(t) {
			if err := store.Records().Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		records.takes = 3 * time.Second
		time.Sleep(6 * time.Second)
		list(1, time.Second)
		time.Sleep(3 * time.Second)
		list(0, 0)
	})
}

// A caller that leaves does not end the first listing, which the next one finds.
func TestListingOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storagetest.NewMemory(t)
		records := &slowList{Records: store.Records(), takes: 3 * time.Second}
		m := newMirrorWith(t, store, store, 4, nil, "", func(o *namespace.CacheOptions) { o.Catalog = catalog.New(records, catalog.Options{}) })
		for range 3 {
			brief, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := m.cache.Repositories(brief); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a listing that takes long: %v", err)
			}
			leave()
		}
		time.Sleep(3 * time.Second)
		began := time.Now()
		if _, err := m.cache.Repositories(t.Context()); err != nil || time.Since(began) > 0 {
			t.Errorf("after the listing: %v, after %s", err, time.Since(began))
		}
	})
}
