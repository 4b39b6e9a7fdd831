package namespace_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/storage"
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
