package namespace_test

import (
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
)

// TestDockersWay is HEAD of the tag, then GET by digest.
func TestDockersWay(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		pull := func(image ocispec.Descriptor, first, second namespace.CacheStatus) {
			t.Helper()
			wantManifest(t, head(t, n, "app", "tag"), first, image)
			wantManifest(t, get(t, n, "app", image.Digest.String()), second, image)
		}
		old := r.AddImage("app", "tag", []byte("old"))
		pull(old, namespace.Passed, namespace.Miss)
		pull(old, namespace.Revalidated, namespace.Hit)
		r.Close()
		pull(old, namespace.Stale, namespace.Hit)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, old)
		r.Reopen()
		time.Sleep(time.Minute) // beyond the circuit breaker

		// The tag moves, and the new content does not come at first.
		moved := r.AddImage("app", "tag", []byte("new"))
		wantManifest(t, head(t, n, "app", "tag"), namespace.Moved, moved)
		r.Close()
		wantManifest(t, head(t, n, "app", "tag"), namespace.Stale, old)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, old)
		r.Reopen()
		time.Sleep(time.Minute)
		pull(moved, namespace.Moved, namespace.Miss)
		r.Close()
		pull(moved, namespace.Stale, namespace.Hit)
	})
}

// TestPendingTagIsForgotten has the manifest arrive too long after the HEAD that
// named it: the tag may have moved.
func TestPendingTagIsForgotten(t *testing.T) {
	for after, want := range map[time.Duration]bool{9 * time.Minute: true, 10 * time.Minute: false} {
		bubble(t, func(t *testing.T, m *mirror) {
			r := m.registry("up.example")
			n := m.namespace("up.example", r)
			image := r.AddImage("app", "tag", []byte("a layer"))
			head(t, n, "app", "tag")
			time.Sleep(after)
			get(t, n, "app", image.Digest.String())
			if got := get(t, m.namespace("up.example", r, offline), "app", "tag"); (got.err == nil) != want {
				t.Errorf("after %s: %+v", after, got)
			}
		})
	}
}

// TestLateAnnouncement has a HEAD's word about a tag overtaken by a newer one
// before the content that it named comes.
func TestLateAnnouncement(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, immutable)
		first := r.AddImage("app", "tag", []byte("first"))
		head(t, n, "app", "tag")
		time.Sleep(time.Second)
		second := r.AddImage("app", "tag", []byte("second"))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, second)
		wantManifest(t, get(t, n, "app", first.Digest.String()), namespace.Miss, first)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, second)
	})
}

func TestOldAnnouncement(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, immutable)
		first := r.AddImage("app", "tag", []byte("first"))
		head(t, n, "app", "tag")
		time.Sleep(time.Hour)
		second := r.AddImage("app", "tag", []byte("second"))
		get(t, n, "app", first.Digest.String())
		wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, second)
	})
}
