package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// overlap is a repository of each of two namespaces, of which one's key begins
// with the other's: {ghcr.io, acme/app} and {ghcr.io/acme, app}. Printed, both are
// ghcr.io/acme/app.
type overlap [2]struct {
	registry  *upstreamtest.Registry
	namespace *namespace.Namespace
	repo      string
}

func newOverlap(m *mirror, change ...func(*namespace.Spec)) (o overlap) {
	o[0].registry, o[0].repo = m.registry("outer.example"), "acme/app"
	o[0].namespace = m.namespace("ghcr.io", o[0].registry, change...)
	o[1].registry, o[1].repo = m.registry("inner.example"), "app"
	o[1].namespace = m.namespace("ghcr.io/acme", o[1].registry, change...)
	return o
}

// atOnce asks both namespaces at the same time.
func (o overlap) atOnce(match upstreamtest.Match, ask func(i int, n *namespace.Namespace, repo string)) {
	gate := upstreamtest.NewGate()
	for _, side := range o {
		side.registry.Fault(match, upstreamtest.Hold(gate))
	}
	together(gate, len(o), func(i int) { ask(i, o[i].namespace, o[i].repo) })
}

func TestOverlappingKeysHaveTheirOwnManifests(t *testing.T) {
	for name, ask := range map[string]func(*testing.T, *namespace.Namespace, string, string) answer{"GET": get, "HEAD": head} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				o := newOverlap(m)
				var images [2]ocispec.Descriptor
				for i, side := range o {
					images[i] = side.registry.AddImage(side.repo, "v1", []byte(side.repo))
				}
				o.atOnce(upstreamtest.Manifests, func(i int, n *namespace.Namespace, repo string) {
					if got := ask(t, n, repo, "v1"); got.err != nil || got.desc.Digest != images[i].Digest {
						t.Errorf("%s got the tag's manifest %s, %v; want %s", n.Key(), got.desc.Digest, got.err, images[i].Digest)
					}
				})
			})
		})
		t.Run(name+" by digest", func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				o := newOverlap(m)
				// Only the inner registry has it.
				image := o[1].registry.AddImage(o[1].repo, "v1", []byte("a layer")).Digest.String()
				o.atOnce(upstreamtest.Manifests, func(i int, n *namespace.Namespace, repo string) {
					got := ask(t, n, repo, image)
					if i == 0 && !errors.Is(got.err, upstream.ErrNotFound) || i == 1 && got.err != nil {
						t.Errorf("%s got %+v", n.Key(), got)
					}
				})
			})
		})
	}
}

// TestOverlappingKeysProveTheirOwnBlobs has a blob in the store that a third
// repository brought. Only the inner registry has it, too.
func TestOverlappingKeysProveTheirOwnBlobs(t *testing.T) {
	asks := map[string]func(t *testing.T, n *namespace.Namespace, repo string, dgst digest.Digest) error{
		"GET": func(t *testing.T, n *namespace.Namespace, repo string, dgst digest.Digest) error {
			b, err := n.Blob(t.Context(), repo, dgst, 0, -1)
			if err == nil {
				b.Content.Close()
			}
			return err
		},
		"HEAD": func(t *testing.T, n *namespace.Namespace, repo string, dgst digest.Digest) error {
			_, err := n.HeadBlob(t.Context(), repo, dgst)
			return err
		},
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				o := newOverlap(m)
				third := m.registry("third.example")
				dgst := third.AddBlob("app", []byte("a private layer"))
				getBlob(t, m.namespace("third.example", third), "app", dgst)
				o[1].registry.AddBlob(o[1].repo, []byte("a private layer"))
				o.atOnce(upstreamtest.Blobs, func(i int, n *namespace.Namespace, repo string) {
					err := ask(t, n, repo, dgst)
					if i == 0 && !errors.Is(err, upstream.ErrNotFound) || i == 1 && err != nil {
						t.Errorf("%s got %v", n.Key(), err)
					}
				})
				outer := storage.RepoID{Namespace: "ghcr.io", Name: "acme/app"}
				if _, err := m.catalog.Link(t.Context(), outer, dgst); err == nil {
					t.Error("the repository without the blob got a link to it")
				}
			})
		})
	}
}

func TestOverlappingKeysHaveTheirOwnLists(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		o := newOverlap(m)
		for i, side := range o {
			side.registry.AddImage(side.repo, fmt.Sprintf("v%d", i), []byte("a layer"))
		}
		o.atOnce(upstreamtest.Tags, func(i int, n *namespace.Namespace, repo string) {
			list, err := n.Tags(t.Context(), repo, nil)
			wantTags(t, list, err, namespace.Passed, nil, fmt.Sprintf("v%d", i))
		})
	})
}

func TestOverlappingKeysHaveTheirOwnReferrers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		o := newOverlap(m)
		var subject digest.Digest
		var signatures [2]digest.Digest
		for i, side := range o {
			image := side.registry.AddImage(side.repo, "v1", []byte("a layer"))
			subject = image.Digest
			signatures[i] = side.registry.AddReferrer(side.repo, image, "application/x.signature", []byte(side.repo)).Digest
		}
		o.atOnce(upstreamtest.Referrers, func(i int, n *namespace.Namespace, repo string) {
			list, err := n.Referrers(t.Context(), repo, subject, "")
			if err != nil {
				t.Error(err)
				return
			}
			var got []digest.Digest
			for _, desc := range list.Index.Manifests {
				got = append(got, desc.Digest)
			}
			if diff := cmp.Diff([]digest.Digest{signatures[i]}, got); diff != "" {
				t.Errorf("%s: %s", n.Key(), diff)
			}
		})
	})
}

// TestOverlappingKeysStoreTheirOwnManifests has the same manifest wait for room
// in both namespaces: a job of the pool stores it for each.
func TestOverlappingKeysStoreTheirOwnManifests(t *testing.T) {
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
		m := newMirrorOver(t, memory, limit, 1, nil)
		o := newOverlap(m, tagTTL(time.Hour))
		filler := m.registry("filler.example")
		blob := filler.AddRandomBlob("app", 9_900, 1)
		if got := getBlob(t, m.namespace("filler.example", filler), "app", blob); got.err != nil {
			t.Fatal(got.err)
		}
		busy := make(chan struct{})
		m.pool.Submit(named("busy"), func(context.Context) error { <-busy; return nil })
		image := o[0].registry.AddImage(o[0].repo, "v1", []byte("a layer"))
		o[1].registry.AddImage(o[1].repo, "v1", []byte("a layer"))
		for _, side := range o {
			wantManifest(t, get(t, side.namespace, side.repo, "v1"), namespace.Passed, image)
		}
		close(busy)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, side := range o {
			wantManifest(t, get(t, side.namespace, side.repo, "v1"), namespace.Hit, image)
		}
	})
}
