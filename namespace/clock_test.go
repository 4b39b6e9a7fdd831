package namespace_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A tag that was checked in the future counts as never checked: it is asked for again,
// follows the upstream, and is too old for a limit on stale answers.
func TestTagCheckedInTheFuture(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"seconds": 10 * time.Second, "a day": 24 * time.Hour, "years": 20 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, tagTTL(time.Hour), staleOn(upstream.ClassUnavailable))
				wrong := func() {
					t.Helper()
					record, err := m.catalog.Tag(t.Context(), storage.RepoID{Namespace: "up.example", Name: "app"}, "tag")
					if err != nil {
						t.Fatal(err)
					}
					record.Checked = time.Now().Add(ahead)
					if err := m.catalog.PutTag(t.Context(), storage.RepoID{Namespace: "up.example", Name: "app"}, "tag", record); err != nil {
						t.Fatal(err)
					}
					r.ResetRequests()
				}
				old := r.AddImage("app", "tag", []byte("old"))
				get(t, n, "app", "tag")
				wrong()
				wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, old)
				wantRequests(t, r, "HEAD /v2/app/manifests/tag 200")
				wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, old)

				// Docker's way to a tag that has moved: the record follows it.
				wrong()
				moved := r.AddImage("app", "tag", []byte("new"))
				wantManifest(t, head(t, n, "app", "tag"), namespace.Moved, moved)
				wantManifest(t, get(t, n, "app", moved.Digest.String()), namespace.Miss, moved)
				wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, moved)

				wrong()
				r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
				got := get(t, n, "app", "tag")
				wantManifest(t, got, namespace.Stale, moved)
				if !strings.Contains(got.warn, "last checked at an unknown time") {
					t.Errorf("the warning is %q", got.warn)
				}
				limited := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable), maxStale(365*24*time.Hour))
				if got := get(t, limited, "app", "tag"); !errors.Is(got.err, upstream.ErrUnavailable) {
					t.Errorf("beyond max_stale: %+v", got)
				}
			})
		})
	}
}

// A list that was kept in the future is stale for an unknown time.
func TestListKeptInTheFuture(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		r.AddImage("app", "tag", []byte("layer"))
		if _, err := n.Tags(t.Context(), "app", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
		if tags, err := n.Tags(t.Context(), "app", nil); err != nil || !strings.Contains(tags.Outcome.Warning, "ago") {
			t.Fatalf("%+v, %v", tags, err)
		}
		if err := m.catalog.PutDocument(t.Context(), repo, "tags", "", catalog.Document{Body: []byte(`{"Tags":["tag"]}`), Checked: time.Now().AddDate(9, 0, 0)}); err != nil {
			t.Fatal(err)
		}
		if tags, err := n.Tags(t.Context(), "app", nil); err != nil || !strings.Contains(tags.Outcome.Warning, "unknown time") {
			t.Errorf("%+v, %v", tags, err)
		}
	})
}
