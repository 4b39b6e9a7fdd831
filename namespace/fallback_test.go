package namespace_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
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

// TestForgedLoopNamesNothing has a client claim to come from the private mirror that is
// asked first, which therefore refuses its request, so that a public registry names the tag
// and the lists. Only that client gets them: as an answer, and when the mirror is away later.
func TestForgedLoopNamesNothing(t *testing.T) {
	const id, private = via.ID("weir-1"), via.ID("weir-2")
	subject := digest.FromString("subject")
	for name, steps := range map[string]func(context.Context, *testing.T, *namespace.Namespace){
		"GET": func(ctx context.Context, t *testing.T, n *namespace.Namespace) { pullAs(ctx, t, n, oci.ByTag("v1")) },
		"HEAD, then GET by digest": func(ctx context.Context, t *testing.T, n *namespace.Namespace) {
			m, err := n.Head(ctx, "app", oci.ByTag("v1"))
			if err != nil {
				t.Fatal(err)
			}
			pullAs(ctx, t, n, oci.ByDigest(m.Descriptor.Digest))
			pullAs(ctx, t, n, oci.ByTag("v1")) // its content is stored now
		},
		"tags": func(ctx context.Context, t *testing.T, n *namespace.Namespace) {
			if list, err := n.Tags(ctx, "app", nil); err != nil || !slices.Equal(list.Tags, []string{"theirs", "v1"}) {
				t.Errorf("tags: %+v, %v", list, err)
			}
		},
		"referrers": func(ctx context.Context, t *testing.T, n *namespace.Namespace) {
			if list, err := n.Referrers(ctx, "app", subject, ""); err != nil || len(list.Index.Manifests) != 1 {
				t.Errorf("referrers: %+v, %v", list, err)
			}
		},
	} {
		for _, policy := range []func(*namespace.Spec){immutable, func(s *namespace.Spec) { s.TagTTL = time.Hour }} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub, m := newMirrorOf(t, private), newMirrorOf(t, id)
					ours, theirs := hub.registry("ours.example"), m.registry("theirs.example")
					right := ours.AddImage("app", "v1", []byte("ours"))
					theirs.AddImage("app", "v1", []byte("theirs"))
					theirs.AddImage("app", "theirs", []byte("theirs"))
					theirs.AddReferrer("app", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 7}, "application/x", []byte("theirs"))
					central := hub.namespace("app", ours)
					first := peer{id, private, &central}
					spec := namespace.Spec{
						Key: "mix", MayLeadToMirror: func() bool { return true }, UpstreamHosts: []string{string(private)},
						Upstreams:    upstream.NewChain(upstream.ChainOptions{FallbackOn: []upstream.Class{upstream.ClassUnavailable}}, first, m.client(theirs)),
						ServeStaleOn: []upstream.Class{upstream.ClassUnavailable},
					}
					policy(&spec)
					table, err := namespace.NewTable(m.cache, []namespace.Spec{spec})
					if err != nil {
						t.Fatal(err)
					}
					n := table.Namespaces()[0]
					steps(via.With(t.Context(), via.Trail{private}), t, n)
					synctest.Wait()
					for _, key := range m.recordKeys(t) {
						if !strings.Contains(key, "/_links/") && !strings.Contains(key, "/_deliveries/") {
							t.Errorf("recorded: %s", key)
						}
					}
					if got := get(t, n, "app", "v1"); got.err != nil || got.desc.Digest != right.Digest {
						t.Errorf("another client got %s, %v", got.desc.Digest, got.err)
					}
					if list, err := n.Tags(t.Context(), "app", nil); err != nil || !slices.Equal(list.Tags, []string{"v1"}) {
						t.Errorf("another client got the tags %+v, %v", list, err)
					}
				})
			})
		}
	}
}

// pullAs reads a manifest of the repository app.
func pullAs(ctx context.Context, t *testing.T, n *namespace.Namespace, ref oci.Reference) {
	t.Helper()
	m, err := n.Manifest(ctx, "app", ref)
	if err != nil {
		t.Fatal(err)
	}
	m.Content.Close()
}
