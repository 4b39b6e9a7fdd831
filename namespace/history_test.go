package namespace_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/storage"
)

// The book of tags writes a history when a tag moves or is gone, and never when it stays.
func TestTagHistory(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r, repo := m.registry("up.example"), storage.RepoID{Namespace: "up.example", Name: "app"}
		n := m.namespace("up.example", r)
		start := time.Now()
		first := r.AddImage("app", "latest", []byte("one"))
		for range 3 {
			get(t, n, "app", "latest")
			time.Sleep(time.Hour)
		}
		if got, err := m.catalog.History(t.Context(), repo, "latest"); len(got) != 0 || err != nil {
			t.Errorf("a tag that stayed has the history %+v, %v", got, err)
		}
		second := r.AddImage("app", "latest", []byte("two"))
		moved := time.Now()
		for range 3 {
			get(t, n, "app", "latest")
			time.Sleep(time.Minute)
		}
		got, err := m.catalog.History(t.Context(), repo, "latest")
		if err != nil || len(got) != 1 || got[0].Digest != first.Digest || !got[0].First.Equal(start) || !got[0].Last.Equal(start.Add(2*time.Hour)) {
			t.Errorf("a tag that moved has the history %+v, %v", got, err)
		}
		if tag, err := m.catalog.Tag(t.Context(), repo, "latest"); err != nil || !tag.Since.Equal(moved) {
			t.Errorf("it moved at %v, %v, want %v", tag.Since, err, moved)
		}
		r.Untag("app", "latest")
		get(t, n, "app", "latest")
		got, err = m.catalog.History(t.Context(), repo, "latest")
		if err != nil || len(got) != 2 || got[0].Digest != second.Digest || !got[0].First.Equal(moved) {
			t.Errorf("a tag that is gone has the history %+v, %v", got, err)
		}
	})
}
