package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// holding remembers the blobs that are held.
type holding struct {
	mu   sync.Mutex
	held []digest.Digest
}

func (h *holding) hold(_ context.Context, contents []storage.Info) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = nil
	for _, content := range contents {
		h.held = append(h.held, content.Digest)
	}
}

// expect checks the held blobs, in any order.
func (h *holding) expect(t *testing.T, label string, want ...digest.Digest) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got, want := slices.Sorted(slices.Values(h.held)), slices.Compact(slices.Sorted(slices.Values(want))); !slices.Equal(got, want) {
		t.Errorf("%s: held\n%v, want\n%v", label, got, want)
	}
}

func (m *mirror) pins(t *testing.T, h *holding, limit int64) *namespace.Pins {
	t.Helper()
	p := namespace.NewPins(namespace.PinsOptions{
		Catalog: m.catalog, Stores: []storage.Store{m.store}, MaxManifest: oci.DefaultMaxManifest, Limit: limit,
		Hold: h.hold, Pause: time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(p.Close)
	return p
}

// A pinned image is held with all that it refers to, a pinned tag is followed, and a pin outlives
// a restart.
func TestPins(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		one, two := w.r.AddImage("app", "one", []byte("one")), w.r.AddImage("app", "two", []byte("two"))
		w.r.AddIndex("app", "index", two, one)
		p := m.pins(t, h, 0)
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "one"}, "alice"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("an image that is not cached: %v", err)
		}
		ones, indexes := w.pull(t, "app", "one"), w.pull(t, "app", "index")
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Digest: digest.FromString("one")}, "alice"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("a layer: %v", err)
		}
		pinned, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "one"}, "alice")
		if err != nil || pinned.Digest != one.Digest || pinned.By != "alice" || pinned.Bytes <= one.Size {
			t.Errorf("pinned %+v, %v", pinned, err)
		}
		h.expect(t, "a tag", ones...)
		time.Sleep(time.Hour)
		if again, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "one"}, "bob"); err != nil || again.By != "alice" || !again.Since.Equal(pinned.Since) {
			t.Errorf("pinned again: %+v, %v", again, err)
		}
		index, err := m.catalog.Tag(t.Context(), repo, "index")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Digest: index.Descriptor.Digest}, "bob"); err != nil {
			t.Error(err)
		}
		h.expect(t, "an index", indexes...)
		if all, err := p.All(t.Context()); err != nil || len(all) != 2 || all[0].Tag != "one" || all[1].Digest != index.Descriptor.Digest {
			t.Errorf("the pins are %+v, %v", all, err)
		}
		if _, err := p.Unpin(t.Context(), repo, namespace.Selection{Digest: index.Descriptor.Digest}); err != nil {
			t.Error(err)
		}
		h.expect(t, "after the end of a pin", ones...)
		p.Close()
		h.held = nil
		p = m.pins(t, h, 0)
		h.expect(t, "after a restart", ones...)

		moved := w.r.AddImage("app", "one", []byte("a new one"))
		news := w.pull(t, "app", "one")
		time.Sleep(2 * time.Minute)
		h.expect(t, "a tag that moved", news...)
		w.r.Untag("app", "one")
		get(t, w.n, "app", "one")
		time.Sleep(2 * time.Minute)
		h.expect(t, "a tag that is gone", news...)
		if got, err := p.Unpin(t.Context(), repo, namespace.Selection{Tag: "one"}); err != nil || got.Digest != moved.Digest {
			t.Errorf("unpinned %+v, %v", got, err)
		}
		if _, err := p.Unpin(t.Context(), repo, namespace.Selection{Tag: "one"}); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("unpinned twice: %v", err)
		}
		h.expect(t, "in the end")
	})
}

// slowStore lets the opening of one blob wait until its gate is closed.
type slowStore struct {
	storage.Store
	dgst digest.Digest
	gate chan struct{}
}

func (s *slowStore) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	if dgst == s.dgst {
		<-s.gate
	}
	return s.Store.Open(ctx, dgst)
}

// A pin that is removed while the pins are looked through does not come back, though its tag has
// moved. Commands beside a mirror note nothing.
func TestRemovedPinStaysAway(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		slow := &slowStore{Store: m.store, gate: make(chan struct{})}
		opts := namespace.PinsOptions{
			Catalog: m.catalog, Stores: []storage.Store{slow}, MaxManifest: oci.DefaultMaxManifest,
			Hold: h.hold, Pause: time.Minute, Logger: slog.New(slog.DiscardHandler),
		}
		p := namespace.NewPins(opts)
		t.Cleanup(p.Close)
		for _, tag := range []string{"one", "two"} {
			w.r.AddImage("app", tag, []byte(tag))
			w.pull(t, "app", tag)
			if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: tag}, "alice"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		for _, tag := range []string{"two", "one"} {
			slow.dgst = w.r.AddImage("app", tag, []byte("a new "+tag)).Digest
			w.pull(t, "app", tag)
		}
		before, err := m.catalog.Pins(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		beside := opts
		beside.Stores = []storage.Store{m.store}
		if _, err := namespace.PinnedContents(t.Context(), beside); err != nil {
			t.Error(err)
		}
		if after, err := m.catalog.Pins(t.Context()); err != nil || !slices.Equal(after, before) {
			t.Errorf("a command noted %+v, %v", after, err)
		}
		time.Sleep(2 * time.Minute) // the look waits for the new manifest of the first tag
		if _, err := p.Unpin(t.Context(), repo, namespace.Selection{Tag: "two"}); err != nil {
			t.Error(err)
		}
		close(slow.gate)
		time.Sleep(2 * time.Minute)
		if all, err := p.All(t.Context()); err != nil || len(all) != 1 || all[0].Tag != "one" {
			t.Errorf("the pins are %+v, %v", all, err)
		}
	})
}

// Pins are bounded in bytes and in number. Parts that several pins share count once.
func TestPinsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		layer := make([]byte, 4000)
		w.r.AddImage("app", "one", layer)
		w.r.AddImage("app", "two", layer, []byte("two"))
		w.r.AddImage("app", "three", append(layer, 1))
		for _, tag := range []string{"one", "two", "three"} {
			w.pull(t, "app", tag)
		}
		p := m.pins(t, h, 8000)
		for tag, want := range map[string]error{"one": nil, "two": nil} {
			if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: tag}, "alice"); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", tag, err, want)
			}
		}
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "three"}, "alice"); !errors.Is(err, namespace.ErrPinsFull) {
			t.Errorf("one more: %v", err)
		}
		for i := range catalog.MaxPins - 2 {
			if err := m.catalog.PutPin(t.Context(), catalog.Pin{Repo: repo, Digest: digest.FromBytes([]byte{byte(i), byte(i >> 8)}), Since: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		w.r.AddImage("app", "small", []byte("small"))
		w.pull(t, "app", "small")
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "small"}, "alice"); !errors.Is(err, namespace.ErrTooManyPins) {
			t.Errorf("beyond the number: %v", err)
		}
	})
}

// An upstream that gives the parts of a pinned image sizes that they do not have takes no room from
// newer pins, nor from one more: what counts is stored.
func TestInventedSizesTakeNoRoom(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		w.r.AddImage("app", "one", []byte("one"))
		layer := make([]byte, 3000)
		w.r.AddImage("app", "two", layer)
		w.r.AddImage("app", "three", append(layer, 3))
		w.r.AddImage("app", "four", append(layer, 4))
		w.pull(t, "app", "one")
		twos, threes := w.pull(t, "app", "two"), w.pull(t, "app", "three")
		w.pull(t, "app", "four")
		p := m.pins(t, h, 10_000)
		pin := func(tag string, want error) {
			t.Helper()
			if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: tag}, "alice"); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", tag, err, want)
			}
		}
		pin("one", nil)
		pin("two", nil)

		for name, size := range map[string]int64{"as large as the limit": 9000, "larger": 1 << 50} {
			invented := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, ocispec.MediaTypeImageLayer, digest.FromString(name), size)
			moved := w.r.AddManifest("app", "one", ocispec.MediaTypeImageManifest, []byte(fmt.Sprintf(
				`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ocispec.MediaTypeImageManifest, invented, invented)))
			if got := get(t, w.n, "app", "one"); got.err != nil {
				t.Fatal(got.err)
			}
			time.Sleep(2 * time.Minute)
			h.expect(t, name, append(twos, moved.Digest, digest.FromString(name))...)
		}
		pin("three", nil)
		synctest.Wait()
		h.mu.Lock()
		for _, dgst := range slices.Concat(twos, threes) {
			if !slices.Contains(h.held, dgst) {
				t.Errorf("%s is not held", dgst)
			}
		}
		h.mu.Unlock()
		pin("four", namespace.ErrPinsFull)
	})
}

// A pin reads no manifest that another repository has got from its upstream, though its index names it.
func TestPinReadsItsOwnManifests(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		secret := w.r.AddImage("secret", "v1", make([]byte, 4000))
		w.pull(t, "secret", "v1")
		index := w.r.AddIndex("app", "v1", secret)
		if got := get(t, w.n, "app", "v1"); got.err != nil {
			t.Fatal(got.err)
		}
		p := m.pins(t, h, 0)
		pinned, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "v1"}, "mallory")
		if err != nil || pinned.Bytes != index.Size+secret.Size {
			t.Errorf("%+v, %v: want the sizes that the index tells, %d", pinned, err, index.Size+secret.Size)
		}
		h.expect(t, "without its parts", index.Digest, secret.Digest)
		own := w.r.AddImage("app", "copy", make([]byte, 4000)) // its own upstream has it too
		all := w.pull(t, "app", own.Digest.String())
		time.Sleep(2 * time.Minute)
		h.expect(t, "with its parts", append(all, index.Digest)...)
	})
}

// An image that is pinned is not removed, nor a part of it, before it is unpinned.
func TestPinnedImageIsNotRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		w, h := newRemoving(t, m), new(holding)
		repo := storage.RepoID{Namespace: "up.example", Name: "app"}
		one := w.r.AddImage("app", "one", []byte("one"))
		index := w.r.AddIndex("app", "index", one)
		w.r.AddImage("app", "other", []byte("other"))
		ones, indexes := w.pull(t, "app", "one"), w.pull(t, "app", "index")
		w.pull(t, "app", "other")
		p := m.pins(t, h, 0)
		if _, err := p.Pin(t.Context(), repo, namespace.Selection{Tag: "index"}, "alice"); err != nil {
			t.Fatal(err)
		}
		for _, s := range []namespace.Selection{{}, {Tag: "index"}, {Digest: index.Digest}, {Digest: one.Digest}} {
			if removed, err := w.remover.Remove(t.Context(), repo, s); !errors.Is(err, namespace.ErrPinned) || removed.Contents != 0 {
				t.Errorf("%+v: %+v, %v", s, removed, err)
			}
		}
		w.remove(t, "app", namespace.Selection{Tag: "other"}, "other", ones, indexes)
		w.remove(t, "app", namespace.Selection{Tag: "one"}, "one", indexes)
		if _, err := p.Unpin(t.Context(), repo, namespace.Selection{Tag: "index"}); err != nil {
			t.Fatal(err)
		}
		w.remove(t, "app", namespace.Selection{}, "index")
	})
}
