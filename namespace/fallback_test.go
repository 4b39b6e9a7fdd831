package namespace_test

import (
	"errors"
	"testing"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// TestImmutableTagOfAFallback has a public second upstream name an immutable tag while the
// private first one is away. The first one decides as soon as it is back, and for good.
func TestImmutableTagOfAFallback(t *testing.T) {
	away := upstreamtest.Status(500, "")
	for _, headFirst := range []bool{false, true} {
		bubble(t, func(t *testing.T, m *mirror) {
			first, second := m.registry("private.example"), m.registry("public.example")
			n := m.fallingBack("mix", []upstream.Class{upstream.ClassUnavailable}, []*upstreamtest.Registry{first, second}, immutable, staleOn(upstream.ClassUnavailable))
			right := first.AddImage("app", "v1", []byte("ours"))
			wrong := second.AddImage("app", "v1", []byte("theirs"))
			fault := first.Fault(upstreamtest.Any, away)
			if headFirst { // docker's way: the GET by digest makes the tag known
				wantManifest(t, head(t, n, "app", "v1"), namespace.Passed, wrong)
				wantManifest(t, get(t, n, "app", wrong.Digest.String()), namespace.Miss, wrong)
			} else {
				wantManifest(t, get(t, n, "app", "v1"), namespace.Miss, wrong)
			}
			// The second upstream's word is asked for again: it is not immutable.
			wantManifest(t, get(t, n, "app", "v1"), namespace.Revalidated, wrong)
			fault.Remove()
			wantManifest(t, get(t, n, "app", "v1"), namespace.Moved, right)
			// From now on the tag is immutable, and a failure changes nothing.
			first.Fault(upstreamtest.Any, away)
			first.ResetRequests()
			second.ResetRequests()
			wantManifest(t, get(t, n, "app", "v1"), namespace.Hit, right)
			wantRequests(t, first)
			wantRequests(t, second)
		})
	}
}

// TestTagThatTheFirstConfirms has the first upstream name the same manifest later. The
// manifest itself comes from the second one, since it is verified.
func TestTagThatTheFirstConfirms(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		first, second := m.registry("first.example"), m.registry("second.example")
		n := m.chain("mix", []*upstreamtest.Registry{first, second}, immutable)
		image := first.AddImage("app", "v1", []byte("a layer"))
		second.AddImage("app", "v1", []byte("a layer"))
		fault := first.Fault(upstreamtest.Any, upstreamtest.Status(503, ""))
		wantManifest(t, get(t, n, "app", "v1"), namespace.Miss, image)
		fault.Remove()
		wantManifest(t, get(t, n, "app", "v1"), namespace.Revalidated, image)
		first.ResetRequests()
		wantManifest(t, get(t, n, "app", "v1"), namespace.Hit, image)
		wantRequests(t, first)
		// The first one's word about the tag counts, wherever the bytes come from.
		moved := second.AddImage("app", "v2", []byte("another layer"))
		first.AddImage("app", "v2", []byte("another layer"))
		wantManifest(t, head(t, n, "app", "v2"), namespace.Passed, moved)
		first.Fault(upstreamtest.Any, upstreamtest.Status(503, ""))
		wantManifest(t, get(t, n, "app", moved.Digest.String()), namespace.Miss, moved)
		wantManifest(t, get(t, n, "app", "v2"), namespace.Hit, moved)
	})
}

// TestRefusalOfAPrivateUpstream has a private upstream refuse names that a public one
// has. The private upstream's word counts, also for remembered answers.
func TestRefusalOfAPrivateUpstream(t *testing.T) {
	for status, want := range map[int]error{401: upstream.ErrDenied, 403: upstream.ErrDenied, 404: upstream.ErrNotFound} {
		bubble(t, func(t *testing.T, m *mirror) {
			first, second := m.registry("private.example"), m.registry("public.example")
			n := m.fallingBack("mix", []upstream.Class{upstream.ClassUnavailable, upstream.ClassRateLimited}, []*upstreamtest.Registry{first, second})
			image := second.AddImage("app", "v1", []byte("theirs"))
			first.Fault(upstreamtest.Any, upstreamtest.Status(status, ""))
			for _, ask := range []func(*testing.T, *namespace.Namespace, string, string) answer{head, get, head, get} {
				if got := ask(t, n, "app", "v1"); !errors.Is(got.err, want) {
					t.Errorf("%d: %+v", status, got)
				}
			}
			wantRequests(t, second)
			wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Miss, image)
		})
	}
}
