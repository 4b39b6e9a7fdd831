package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// peer is another mirror as an upstream. A request takes a second to reach it, in
// which all mirrors of a test begin their own lookups.
type peer struct {
	from, id  via.ID
	namespace **namespace.Namespace
}

var _ upstream.Member = peer{}

func (p peer) Host() string            { return string(p.id) }
func (p peer) Health() upstream.Health { return healthy{} }

// healthy is the health of a peer that never cools down.
type healthy struct{ upstream.Health }

func (healthy) Cooldown() (time.Duration, bool)                                        { return 0, false }
func (healthy) EndCooldown() bool                                                      { return false }
func (healthy) Rejected(digest.Digest) bool                                            { return false }
func (healthy) Broken(_ context.Context, _ string, _ digest.Digest, cause error) error { return cause }

// arrive returns the context of a request that has reached the peer, or the failure
// of one that has come back.
func (p peer) arrive(ctx context.Context) (context.Context, *namespace.Namespace, error) {
	time.Sleep(time.Second)
	trail := append(slices.Clone(via.From(ctx)), p.from)
	if slices.Contains(trail, p.id) {
		via.NoteLoop(ctx)
		return nil, nil, &upstream.Error{Host: string(p.id), Class: upstream.ClassUnavailable, Status: http.StatusLoopDetected}
	}
	return via.With(ctx, trail), *p.namespace, nil
}

func (p peer) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return nil, err
	}
	m, err := n.Manifest(ctx, repo, ref)
	if err != nil {
		return nil, err
	}
	defer m.Content.Close()
	body, err := oci.ReadManifest(m.Content, 1<<20)
	return &oci.Manifest{Descriptor: m.Descriptor, Body: body}, err
}

func (p peer) Head(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return nil, err
	}
	m, err := n.Head(ctx, repo, ref)
	if err != nil {
		return nil, err
	}
	return &oci.Manifest{Descriptor: m.Descriptor}, nil
}

func (p peer) Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return nil, err
	}
	b, err := n.Blob(ctx, repo, dgst, offset, -1)
	if err != nil {
		return nil, err
	}
	return peerBlob{b}, nil
}

func (p peer) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	b, err := n.HeadBlob(ctx, repo, dgst)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{Digest: dgst, Size: b.Size}, nil
}

func (p peer) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return nil, err
	}
	list, err := n.Tags(ctx, repo, query)
	if err != nil {
		return nil, err
	}
	return &oci.TagList{Tags: list.Tags}, nil
}

func (p peer) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error) {
	ctx, n, err := p.arrive(ctx)
	if err != nil {
		return nil, err
	}
	r, err := n.Referrers(ctx, repo, dgst, artifactType)
	if err != nil {
		return nil, err
	}
	return &oci.Referrers{Index: r.Index}, nil
}

type peerBlob struct{ *namespace.Blob }

func (b peerBlob) Size() int64                { return b.Blob.Size }
func (b peerBlob) Upstream() string           { return "" }
func (b peerBlob) Read(p []byte) (int, error) { return b.Content.Read(p) }
func (b peerBlob) Close() error               { return b.Content.Close() }
func (b peerBlob) Reject() bool               { return false }

// ring starts mirrors of which each has the next one as its upstream, and behind it
// the registry that prepare returns for it, if any.
func ring(t *testing.T, ids []via.ID, prepare func(m *mirror) upstream.Member) []*namespace.Namespace {
	t.Helper()
	mirrors := make([]*namespace.Namespace, len(ids))
	for i, id := range ids {
		m := newMirrorOf(t, id)
		next := (i + 1) % len(ids)
		members := []upstream.Member{peer{id, ids[next], &mirrors[next]}}
		if registry := prepare(m); registry != nil {
			members = append(members, registry)
		}
		table, err := namespace.NewTable(m.cache, []namespace.Spec{{
			Key: "ring", MayLeadToMirror: func() bool { return true },
			UpstreamHosts: []string{string(ids[next])},
			Upstreams:     upstream.NewChain(upstream.ChainOptions{}, members...),
		}})
		if err != nil {
			t.Fatal(err)
		}
		mirrors[i] = table.Namespaces()[0]
	}
	return mirrors
}

// storing returns the preparation of mirrors that have the content by a repository of
// another block, and no registry.
func storing(t *testing.T, content string) func(*mirror) upstream.Member {
	return func(m *mirror) upstream.Member {
		t.Helper()
		s, err := m.store.Spools().Create("other", int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := io.WriteString(s, content); err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(); err != nil {
			t.Fatal(err)
		}
		if err := m.store.Commit(t.Context(), digest.FromString(content), s); err != nil {
			t.Fatal(err)
		}
		return nil
	}
}

// Mirrors that lead to each other and are asked for the same content at the same
// moment do not wait for each other, in whatever order their IDs are. It is no difference
// that they have the content for repositories of another block.
func TestMirrorsInARing(t *testing.T) {
	dgst := digest.FromString("layer")
	questions := map[string]func(context.Context, *namespace.Namespace) error{
		"manifest": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Manifest(ctx, "app", oci.ByTag("v1"))
			return err
		},
		"manifest by digest": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Manifest(ctx, "app", oci.ByDigest(dgst))
			return err
		},
		"head": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Head(ctx, "app", oci.ByTag("v1"))
			return err
		},
		"blob": func(ctx context.Context, n *namespace.Namespace) error {
			b, err := n.Blob(ctx, "app", dgst, 0, -1)
			if err == nil {
				b.Content.Close()
			}
			return err
		},
		"head of a blob": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.HeadBlob(ctx, "app", dgst)
			return err
		},
		"tags": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Tags(ctx, "app", nil)
			return err
		},
		"referrers": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Referrers(ctx, "app", dgst, "")
			return err
		},
	}
	for _, ids := range [][]via.ID{
		{"weir-1", "weir-2"}, {"weir-2", "weir-1"},
		{"weir-1", "weir-2", "weir-3"}, {"weir-3", "weir-2", "weir-1"}, {"weir-2", "weir-1", "weir-3"},
		{"weir-1", "weir-3", "weir-2", "weir-4"}, {"weir-1"},
	} {
		for name, ask := range questions {
			ringOf := func(t *testing.T, prepare func(*mirror) upstream.Member) {
				synctest.Test(t, func(t *testing.T) {
					mirrors := ring(t, ids, prepare)
					// Two clients of each mirror, so that lookups are shared, too.
					var clients sync.WaitGroup
					start := time.Now()
					for _, n := range append(mirrors, mirrors...) {
						clients.Go(func() {
							err := ask(t.Context(), n)
							if failed, ok := errors.AsType[*upstream.Error](err); !ok || !failed.Loop() {
								t.Errorf("got %v, want a loop", err)
							}
						})
					}
					clients.Wait()
					// A pass of the ring, and another one of requests that stood aside.
					if took := time.Since(start); took > time.Minute {
						t.Errorf("answered after %s", took)
					}
				})
			}
			t.Run(fmt.Sprint(name, ids), func(t *testing.T) {
				ringOf(t, func(*mirror) upstream.Member { return nil })
			})
			t.Run(fmt.Sprint(name, ids, " stored"), func(t *testing.T) { ringOf(t, storing(t, "layer")) })
		}
	}
}

// Mirrors that ask each other first and then the registry deliver its content, also if
// they have it for repositories of another block.
func TestMirrorsInARingBeforeARegistry(t *testing.T) {
	for _, ids := range [][]via.ID{
		{"weir-1", "weir-2"}, {"weir-2", "weir-1"},
		{"weir-3", "weir-1", "weir-2"}, {"weir-1", "weir-2", "weir-3"}, {"weir-2", "weir-4", "weir-1", "weir-3"},
	} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprint(ids, " stored ", stored), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { pullFromRing(t, ids, stored) })
			})
		}
	}
}

func pullFromRing(t *testing.T, ids []via.ID, stored bool) {
	hub := newMirror(t, 1, nil)
	r := hub.registry("hub.example")
	image := r.AddImage("app", "v1", []byte("layer"))
	layer := digest.FromString("layer")
	mirrors := ring(t, ids, func(m *mirror) upstream.Member {
		if stored {
			storing(t, "layer")(m)
		}
		c := upstream.NewClient(upstream.Options{URL: r.URL, DialContext: hub.network.DialContext})
		t.Cleanup(c.Close)
		return c
	})
	var clients sync.WaitGroup
	start := time.Now()
	for _, n := range append(mirrors, mirrors...) {
		clients.Go(func() {
			if m := get(t, n, "app", "v1"); m.err != nil || m.desc.Digest != image.Digest {
				t.Errorf("manifest: %v", m.err)
			}
			b, err := n.Blob(t.Context(), "app", layer, 0, -1)
			if err != nil {
				t.Errorf("blob: %v", err)
				return
			}
			defer b.Content.Close()
			if got, err := io.ReadAll(b.Content); err != nil || string(got) != "layer" {
				t.Errorf("blob: %q, %v", got, err)
			}
			if _, err := n.Tags(t.Context(), "app", nil); err != nil {
				t.Errorf("tags: %v", err)
			}
		})
	}
	clients.Wait()
	if took := time.Since(start); took > time.Minute {
		t.Errorf("answered after %s", took)
	}
}

// A client that claims to come from the mirror upstream gets the loop that it claims, and no
// other client that waits for the same content at the same moment.
func TestForgedTrail(t *testing.T) {
	layer, content := digest.FromString("layer"), "layer"
	questions := map[string]func(context.Context, *namespace.Namespace) error{
		"manifest": func(ctx context.Context, n *namespace.Namespace) error {
			m, err := n.Manifest(ctx, "app", oci.ByTag("v1"))
			if err == nil {
				m.Content.Close()
			}
			return err
		},
		"head": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Head(ctx, "app", oci.ByTag("v1"))
			return err
		},
		"blob": func(ctx context.Context, n *namespace.Namespace) error {
			b, err := n.Blob(ctx, "app", layer, 0, -1)
			if err != nil {
				return err
			}
			defer b.Content.Close()
			if got, err := io.ReadAll(b.Content); err != nil || string(got) != content {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		},
		"head of a blob": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.HeadBlob(ctx, "app", layer)
			return err
		},
		"tags": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Tags(ctx, "app", nil)
			return err
		},
		"referrers": func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Referrers(ctx, "app", layer, "")
			return err
		},
	}
	for name, ask := range questions {
		// The order of the IDs decides whether the requests share their lookups.
		for _, ids := range [][2]via.ID{{"weir-2", "weir-1"}, {"weir-1", "weir-2"}} {
			t.Run(fmt.Sprint(name, ids), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := newMirrorOf(t, ids[1])
					r := hub.registry("hub.example")
					r.AddImage("app", "v1", []byte(content))
					central := hub.namespace("ring", r)
					n := leadingTo(t, ids[0], ids[1], &central)
					var clients sync.WaitGroup
					for _, trail := range []via.Trail{{ids[1]}, nil, nil, {"weir-0"}} {
						clients.Go(func() {
							err := ask(via.With(t.Context(), trail), n)
							failed, ok := errors.AsType[*upstream.Error](err)
							forged := slices.Contains(trail, ids[1])
							if looped := ok && failed.Loop(); looped != forged || !forged && err != nil {
								t.Errorf("the client with the trail %v got %v", trail, err)
							}
						})
						time.Sleep(100 * time.Millisecond) // the forged request comes first
					}
					clients.Wait()
				})
			})
		}
	}
}

// leadingTo returns a namespace of a mirror whose upstream is another mirror.
func leadingTo(t *testing.T, id, next via.ID, to **namespace.Namespace) *namespace.Namespace {
	t.Helper()
	table, err := namespace.NewTable(newMirrorOf(t, id).cache, []namespace.Spec{{
		Key: "ring", MayLeadToMirror: func() bool { return true }, UpstreamHosts: []string{string(next)},
		Upstreams: upstream.NewChain(upstream.ChainOptions{}, peer{id, next, to}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return table.Namespaces()[0]
}
