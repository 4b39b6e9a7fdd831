package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// removing is a mirror whose images are removed.
type removing struct {
	*mirror
	remover *namespace.Remover
	r       *upstreamtest.Registry
	n       *namespace.Namespace
}

func newRemoving(t *testing.T, m *mirror) *removing {
	t.Helper()
	r := m.registry("up.example")
	return &removing{m, m.remover(nil), r, m.namespace("up.example", r)}
}

func (m *mirror) remover(far func(context.Context, []digest.Digest) error) *namespace.Remover {
	return namespace.NewRemover(namespace.RemoverOptions{Cache: m.cache, Stores: []storage.Store{m.store}, MaxManifest: oci.DefaultMaxManifest, Far: far})
}

// pull pulls a manifest and all that it refers to, and returns the digests.
func (m *removing) pull(t *testing.T, repo, ref string) (all []digest.Digest) {
	t.Helper()
	got := get(t, m.n, repo, ref)
	if got.err != nil {
		t.Fatal(got.err)
	}
	links, err := oci.References([]byte(got.Body))
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, got.desc.Digest)
	for _, manifest := range links.Manifests {
		all = append(all, m.pull(t, repo, manifest.Digest.String())...)
	}
	links.Manifests = nil
	for _, blob := range links.Content() {
		if got := getBlob(t, m.n, repo, blob.Digest); got.err != nil {
			t.Fatal(got.err)
		}
		all = append(all, blob.Digest)
	}
	return all
}

// remove removes a part of a repository, and checks which tags were removed and what is left.
func (m *removing) remove(t *testing.T, repo string, s namespace.Selection, wantTags string, left ...[]digest.Digest) namespace.Removed {
	t.Helper()
	removed, err := m.remover.Remove(t.Context(), storage.RepoID{Namespace: "up.example", Name: repo}, s)
	if err != nil || strings.Join(removed.Tags, " ") != wantTags {
		t.Errorf("removing %+v of %s: %+v, %v, want the tags %q", s, repo, removed, err, wantTags)
	}
	m.expectLeft(t, fmt.Sprintf("removing %+v of %s", s, repo), left...)
	return removed
}

// expectLeft checks what is in the store and in the links of all repositories.
func (m *removing) expectLeft(t *testing.T, label string, left ...[]digest.Digest) {
	t.Helper()
	want := slices.Compact(slices.Sorted(slices.Values(slices.Concat(left...))))
	var stored []digest.Digest
	for entry, err := range m.store.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, entry.Digest)
	}
	slices.Sort(stored)
	if !slices.Equal(stored, want) {
		t.Errorf("%s: stored are\n%v, want\n%v", label, stored, want)
	}
	var linked []digest.Digest
	for _, key := range m.recordKeys(t) {
		if _, encoded, ok := strings.Cut(key, "/_links/sha256/"); ok {
			linked = append(linked, digest.NewDigestFromEncoded(digest.SHA256, encoded))
		}
	}
	slices.Sort(linked)
	if linked = slices.Compact(linked); !slices.Equal(linked, want) {
		t.Errorf("%s: linked are\n%v, want\n%v", label, linked, want)
	}
}

// A removal takes exactly that which nothing else refers to, and the next pull gets it again.
func TestRemove(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		shared := []byte("a layer of several images")
		one := w.r.AddImage("app", "one", []byte("one"), shared)
		w.r.Tag("app", "alias", one.Digest)
		two := w.r.AddImage("app", "two", []byte("two"), shared)
		other := w.r.AddImage("other", "v1", []byte("one"))
		index := w.r.AddIndex("app", "index", two, w.r.AddImage("app", "three", []byte("three")))
		ones, twos, others, indexes := w.pull(t, "app", "one"), w.pull(t, "app", "two"), w.pull(t, "other", "v1"), w.pull(t, "app", "index")
		w.pull(t, "app", "alias")

		w.remove(t, "app", namespace.Selection{Tag: "alias"}, "alias", ones, twos, others, indexes)
		oneLayer := digest.FromString("one") // the other repository has it too
		w.remove(t, "app", namespace.Selection{Tag: "two"}, "two", ones, twos, others, indexes)
		removed := w.remove(t, "app", namespace.Selection{Tag: "one"}, "one", others, indexes)
		if removed.Manifests != 1 || removed.Contents != 2 || removed.Bytes == 0 {
			t.Errorf("removed %+v, want the manifest and the configuration", removed)
		}
		if _, err := m.catalog.Link(t.Context(), storage.RepoID{Namespace: "up.example", Name: "app"}, oneLayer); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the link to a layer that stays for another repository: %v", err)
		}
		// A manifest that an index names goes if it is meant, and the index stays.
		w.remove(t, "app", namespace.Selection{Digest: two.Digest}, "", others, slices.DeleteFunc(slices.Clone(indexes), func(d digest.Digest) bool { return slices.Contains(twos, d) }))
		w.r.ResetRequests()
		wantManifest(t, get(t, w.n, "app", two.Digest.String()), namespace.Miss, two)
		if got := w.pull(t, "app", "index"); !slices.Equal(got, indexes) {
			t.Errorf("the index leads to %v, want %v", got, indexes)
		}
		if w.r.Tag("app", "latest", index.Digest); get(t, w.n, "app", "latest").err != nil {
			t.Error("the tag latest")
		}
		w.remove(t, "app", namespace.Selection{Digest: index.Digest}, "index latest", others)
		w.pull(t, "app", "one")
		w.remove(t, "app", namespace.Selection{}, "one", others)
		for _, key := range m.recordKeys(t) {
			if strings.HasPrefix(key, "up.example/app/") {
				t.Errorf("the record %s is left", key)
			}
		}
		for _, s := range []namespace.Selection{{}, {Tag: "one"}, {Digest: one.Digest}, {Digest: other.Digest}} {
			if removed, err := w.remover.Remove(t.Context(), storage.RepoID{Namespace: "up.example", Name: "app"}, s); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("removing %+v twice: %+v, %v", s, removed, err)
			}
		}
		if got := w.pull(t, "app", "one"); !slices.Equal(got, ones) {
			t.Errorf("pulled %v, want %v", got, ones)
		}
	})
}

// A layer that is on its way to a client when its image is removed is not stored, and nor are the
// layers that the mirror would fetch ahead of the client. The next pull gets all of it.
func TestRemoveDuringAPull(t *testing.T) {
	for name, s := range map[string]func(image ocispec.Descriptor) namespace.Selection{
		"the tag":        func(ocispec.Descriptor) namespace.Selection { return namespace.Selection{Tag: "v1"} },
		"the manifest":   func(i ocispec.Descriptor) namespace.Selection { return namespace.Selection{Digest: i.Digest} },
		"the repository": func(ocispec.Descriptor) namespace.Selection { return namespace.Selection{} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				w := newRemoving(t, m)
				w.n = m.namespace("up.example", w.r, prefetch)
				layers := layersOf(5, 1)
				image := w.r.AddImage("app", "v1", layers...)
				w.r.AddImage("other", "v1", []byte("of another repository"))
				other := w.pull(t, "other", "v1")
				gate := upstreamtest.NewGate()
				w.r.Fault(upstreamtest.Path("/app/blobs/"), upstreamtest.StallAfter(50<<10, gate))
				m.readManifest(w.n, "v1")
				pulled := make(chan error, 1)
				go func() {
					_, err := m.readBlob(w.n, digest.FromBytes(layers[0]), 0, -1)
					pulled <- err
				}()
				if err := gate.Arrived(t.Context(), 3); err != nil { // and those that are fetched ahead
					t.Fatal(err)
				}
				repo := storage.RepoID{Namespace: "up.example", Name: "app"}
				if removed, err := w.remover.Remove(t.Context(), repo, s(image)); err != nil || removed.Manifests != 1 {
					t.Errorf("removed %+v, %v", removed, err)
				}
				gate.Open()
				if err := <-pulled; err != nil {
					t.Errorf("the pull: %v", err)
				}
				m.settle()
				w.expectLeft(t, "after the pull", other)
				if got := blobsAsked(w.r, layers); slices.Max(got) != 1 || got[4] != 0 {
					t.Errorf("the layers were asked for %v times", got)
				}

				w.r.ResetRequests()
				all := w.pull(t, "app", "v1")
				m.settle()
				w.expectLeft(t, "after the next pull", other, all)
				if strings.Contains(m.log.String(), "level=WARN") {
					t.Errorf("the log has a warning:\n%s", m.log.String())
				}
			})
		})
	}
}

// stalled begins to pull a blob whose upstream stalls until the gate opens. It returns when the blob is
// on its way. The function waits for the end of the pull.
func (m *removing) stalled(t *testing.T, repo string, dgst digest.Digest) (wait func()) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		b, err := m.n.Blob(t.Context(), repo, dgst, 0, -1)
		if err == nil {
			_, err = io.Copy(io.Discard, b.Content)
			b.Content.Close()
		}
		ended <- err
	}()
	synctest.Wait()
	return func() {
		t.Helper()
		if err := <-ended; err != nil {
			t.Errorf("the pull from %s: %v", repo, err)
		}
		m.settle()
	}
}

// A repository that has joined the download of another one gets no right to it after its removal.
func TestRemoveDuringASharedDownload(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		layer := layersOf(1, 1)[0]
		dgst := digest.FromBytes(layer)
		w.r.AddImage("app", "v1", layer)
		other := w.r.AddImage("other", "v1", layer)
		gate := upstreamtest.NewGate()
		w.r.Fault(upstreamtest.Path("/other/blobs/"), upstreamtest.StallAfter(50<<10, gate))
		if got := get(t, w.n, "app", "v1"); got.err != nil {
			t.Fatal(got.err)
		}
		if got := get(t, w.n, "other", "v1"); got.err != nil {
			t.Fatal(got.err)
		}
		first, second := w.stalled(t, "other", dgst), w.stalled(t, "app", dgst)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		if removed, err := w.remover.Remove(t.Context(), repo, namespace.Selection{Tag: "v1"}); err != nil || removed.Manifests != 1 {
			t.Errorf("removed %+v, %v", removed, err)
		}
		gate.Open()
		first()
		second()
		w.expectLeft(t, "after the pulls", []digest.Digest{other.Digest, dgst})
		for _, key := range m.recordKeys(t) {
			if strings.HasPrefix(key, "up.example/app/_links") {
				t.Errorf("the record %s is left", key)
			}
		}
	})
}

// A repository of which only a download is left can be removed.
func TestRemoveADownload(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		layer := layersOf(1, 1)[0]
		w.r.AddImage("app", "v1", layer)
		gate := upstreamtest.NewGate()
		w.r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(50<<10, gate))
		wait := w.stalled(t, "app", digest.FromBytes(layer))
		w.remove(t, "app", namespace.Selection{}, "")
		gate.Open()
		wait()
		w.expectLeft(t, "after the pull")
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		if _, err := w.remover.Remove(t.Context(), repo, namespace.Selection{}); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("once more: %v", err)
		}
	})
}

// watched is a store that tells of its first opening.
type watched struct {
	storage.Store
	opened func()
}

func (w *watched) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := w.Store.Open(ctx, dgst)
	if w.opened != nil {
		opened := w.opened
		w.opened = nil
		opened()
	}
	return object, err
}

// A manifest of an index that comes while a removal reads the records goes too, and so does a layer of it
// that is still on its way.
func TestRemoveSeesWhatComesMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		layer := layersOf(1, 1)[0]
		image := w.r.AddImage("app", "amd64", layer)
		w.r.AddIndex("app", "v1", image)
		gate := upstreamtest.NewGate()
		w.r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(50<<10, gate))
		if got := get(t, w.n, "app", "v1"); got.err != nil {
			t.Fatal(got.err)
		}
		var wait func()
		store := &watched{m.store, func() {
			if got := get(t, w.n, "app", image.Digest.String()); got.err != nil {
				t.Error(got.err)
			}
			wait = w.stalled(t, "app", digest.FromBytes(layer))
		}}
		w.remover = namespace.NewRemover(namespace.RemoverOptions{Cache: m.cache, Stores: []storage.Store{store}, MaxManifest: oci.DefaultMaxManifest})
		w.remove(t, "app", namespace.Selection{Tag: "v1"}, "v1")
		gate.Open()
		wait()
		w.expectLeft(t, "after the pull")
	})
}

// A job that waits for its turn to prefetch an image finds it removed.
func TestRemoveBeforeAPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := storagetest.NewMemory(t)
		m := newMirrorWith(t, memory, memory, 1, nil, "")
		w := newRemoving(t, m)
		w.n = m.namespace("up.example", w.r, prefetch)
		layers := layersOf(6, 1)
		w.r.AddImage("app", "one", layers[:3]...)
		w.r.AddImage("app", "two", layers[3:]...)
		gate := upstreamtest.NewGate()
		w.r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(50<<10, gate))
		var waits []func()
		for tag, first := range map[string]int{"one": 0, "two": 3} {
			m.readManifest(w.n, tag)
			waits = append(waits, w.stalled(t, "app", digest.FromBytes(layers[first])))
		}
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		for _, tag := range []string{"one", "two"} {
			if removed, err := w.remover.Remove(t.Context(), repo, namespace.Selection{Tag: tag}); err != nil || removed.Manifests != 1 {
				t.Errorf("removed %+v, %v", removed, err)
			}
		}
		gate.Open()
		for _, wait := range waits {
			wait()
		}
		w.expectLeft(t, "after the pulls")
	})
}

// Signatures go with their image, and keep nothing of it. One with a tag of its own stays.
func TestRemoveReferrers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		image := w.r.AddImage("app", "v1", []byte("layer"))
		signature := w.r.AddReferrer("app", image, "application/vnd.example.signature", []byte("signed"))
		of := w.r.AddReferrer("app", signature, "application/vnd.example.signature", []byte("twice"))
		w.pull(t, "app", "v1")
		w.pull(t, "app", signature.Digest.String())
		w.pull(t, "app", of.Digest.String())
		w.remove(t, "app", namespace.Selection{Tag: "v1"}, "v1")

		w.pull(t, "app", "v1")
		w.r.Tag("app", "signature", signature.Digest)
		signed := slices.Concat(w.pull(t, "app", "signature"), w.pull(t, "app", of.Digest.String()))
		w.remove(t, "app", namespace.Selection{Tag: "v1"}, "v1", signed)
	})
}

// A removal that broke off can be made once more, and a reader keeps its open content.
func TestRemoveAgain(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		w.r.AddImage("app", "v1", []byte("layer"))
		all := w.pull(t, "app", "v1")
		open, err := w.n.Blob(t.Context(), "app", digest.FromString("layer"), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("the bucket is away")
		w.remover = m.remover(func(_ context.Context, contents []digest.Digest) error {
			if len(contents) != len(all) {
				t.Errorf("%v is taken out of the bucket, want %v", contents, all)
			}
			return broken
		})
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		if _, err := w.remover.Remove(t.Context(), repo, namespace.Selection{Tag: "v1"}); !errors.Is(err, broken) {
			t.Errorf("a removal that breaks off: %v", err)
		}
		// The manifest is gone, and its tag and links are there.
		broken = nil
		w.remover = m.remover(func(context.Context, []digest.Digest) error { return nil })
		if removed, err := w.remover.Remove(t.Context(), repo, namespace.Selection{}); err != nil || removed.Manifests != 1 || len(removed.Tags) != 1 {
			t.Errorf("the second removal: %+v, %v", removed, err)
		}
		got := make([]byte, 10)
		if n, _ := open.Content.Read(got); string(got[:n]) != "layer" {
			t.Errorf("a reader got %q", got[:n])
		}
		open.Content.Close()
	})
}

// The references in memory are bounded. They are not needed if all of a repository goes.
func TestRemoveIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w := newRemoving(t, m)
		for _, tag := range []string{"one", "two"} {
			w.r.AddImage("app", tag, []byte(tag))
			w.pull(t, "app", tag)
		}
		bounded := namespace.NewRemover(namespace.RemoverOptions{Cache: m.cache, Stores: []storage.Store{m.store}, MaxManifest: oci.DefaultMaxManifest, MaxEdges: 3})
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		if removed, err := bounded.Remove(t.Context(), repo, namespace.Selection{Tag: "one"}); !errors.Is(err, namespace.ErrTooMany) {
			t.Errorf("with four references: %+v, %v", removed, err)
		}
		if removed, err := bounded.Remove(t.Context(), repo, namespace.Selection{}); err != nil || removed.Manifests != 2 {
			t.Errorf("all of the repository: %+v, %v", removed, err)
		}
	})
}
