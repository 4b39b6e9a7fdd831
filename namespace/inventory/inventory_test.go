package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	app   = storage.RepoID{Namespace: "ghcr.io", Name: "acme/app"}
	other = storage.RepoID{Namespace: "ghcr.io", Name: "acme/other"}
)

// kept is an inventory over two stores, the near and the far one, and its records.
type kept struct {
	*inventory.Inventory
	near, far *storagetest.Memory
	catalog   *catalog.Catalog
	pulls     catalog.RepositoryPulls
	referrers []ocispec.Descriptor
}

const maxManifest = 1 << 20

func newKept(t *testing.T) *kept {
	t.Helper()
	k := &kept{near: storagetest.NewMemory(t), far: storagetest.NewMemory(t)}
	k.catalog = catalog.New(k.near.Records(), catalog.Options{})
	k.Inventory = k.over(k.near, k.far)
	return k
}

// over returns an inventory over stores.
func (k *kept) over(stores ...storage.Store) *inventory.Inventory {
	return inventory.New(inventory.Options{Catalog: k.catalog, Stores: stores, Pulls: k, Referrers: k, MaxManifest: maxManifest})
}

func (k *kept) Of(context.Context, storage.RepoID) (catalog.RepositoryPulls, error) {
	return k.pulls, nil
}

func (k *kept) KeptReferrers(context.Context, storage.RepoID, digest.Digest) ([]ocispec.Descriptor, error) {
	return k.referrers, nil
}

// add stores a blob in a store, and lets a repository serve it.
func (k *kept) add(t *testing.T, store *storagetest.Memory, repo storage.RepoID, mediaType string, content []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: storagetest.Commit(t, store, store.Spools(), content), Size: int64(len(content))}
	link := desc
	if mediaType != ocispec.MediaTypeImageManifest {
		link.MediaType = ""
	}
	if err := k.catalog.PutLink(t.Context(), repo, link); err != nil {
		t.Fatal(err)
	}
	return desc
}

// addManifest stores a manifest of app.
func (k *kept) addManifest(t *testing.T, manifest ocispec.Manifest) digest.Digest {
	t.Helper()
	body, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return k.add(t, k.near, app, ocispec.MediaTypeImageManifest, body).Digest
}

func (k *kept) manifest(t *testing.T, dgst digest.Digest) inventory.Manifest {
	t.Helper()
	m, err := k.Manifest(t.Context(), app, dgst)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A manifest has its parts, and those count as cached that are stored anywhere and belong to
// the repository.
func TestManifest(t *testing.T) {
	k := newKept(t)
	config := k.add(t, k.far, app, ocispec.MediaTypeImageConfig,
		[]byte(`{"os":"linux","architecture":"arm","variant":"v7","created":"2026-01-02T03:04:05Z","config":{"Labels":{"a":"b"}}}`))
	layer := k.add(t, k.near, app, ocispec.MediaTypeImageLayer, []byte("a layer"))
	foreign := k.add(t, k.near, other, ocispec.MediaTypeImageLayer, []byte("a layer of others"))
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("absent"), Size: 100}
	dgst := k.addManifest(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer, layer, foreign, absent}})
	k.referrers = []ocispec.Descriptor{layer, absent}
	k.pulls.Images = map[digest.Digest]catalog.Pulls{dgst: {Total: 5}}

	m := k.manifest(t, dgst)
	if !m.Cached || m.Pulls.Total != 5 || m.Since.IsZero() || m.Config == nil || !m.Config.Cached || m.Omitted != 0 {
		t.Errorf("%+v", m)
	}
	if want := m.Descriptor.Size + config.Size + layer.Size + foreign.Size + absent.Size; m.Size != want {
		t.Errorf("the size is %d, want %d", m.Size, want)
	}
	if got := cachedOf(m.Layers); got != "yes yes no no" {
		t.Errorf("layers: %s", got)
	}
	if got := cachedOf(m.Referrers); got != "yes no" {
		t.Errorf("referrers: %s", got)
	}
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if m.Image == nil || m.Image.Platform.Variant != "v7" || m.Image.Labels["a"] != "b" || !m.Image.Created.Equal(created) {
		t.Errorf("the image is %+v", m.Image)
	}
}

// The cached manifests of an index have the sizes of whole images.
func TestPlatformSizes(t *testing.T) {
	k := newKept(t)
	config := k.add(t, k.near, app, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux"}`))
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("layer"), Size: 100}
	endless := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("endless"), Size: math.MaxInt64}
	image := func(layers ...ocispec.Descriptor) ocispec.Descriptor {
		dgst := k.addManifest(t, ocispec.Manifest{Config: config, Layers: layers})
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst, Size: k.manifest(t, dgst).Descriptor.Size}
	}
	whole, huge := image(layer, layer), image(endless, layer)
	odd := k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte("no JSON"))
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 9}
	body, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{whole, huge, odd, absent}})
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for _, part := range k.manifest(t, k.add(t, k.near, app, ocispec.MediaTypeImageManifest, body).Digest).Manifests {
		sizes = append(sizes, part.Whole)
	}
	if want := []int64{whole.Size + config.Size + layer.Size, math.MaxInt64, 0, 0}; !slices.Equal(sizes, want) {
		t.Errorf("sizes %v, want %v", sizes, want)
	}
}

func cachedOf(parts []inventory.Part) string {
	var words []string
	for _, p := range parts {
		words = append(words, map[bool]string{true: "yes", false: "no"}[p.Cached])
	}
	return strings.Join(words, " ")
}

// A digest of which the repository has no manifest is absent, also if others have it.
func TestManifestIsAbsent(t *testing.T) {
	k := newKept(t)
	foreign := k.add(t, k.near, other, ocispec.MediaTypeImageManifest, []byte("{}"))
	layer := k.add(t, k.near, app, ocispec.MediaTypeImageLayer, []byte("a layer"))
	for _, dgst := range []digest.Digest{foreign.Digest, layer.Digest, digest.FromString("none")} {
		if _, err := k.Manifest(t.Context(), app, dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: %v", dgst, err)
		}
	}
	evicted := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("evicted"), Size: 9}
	if err := k.catalog.PutLink(t.Context(), app, evicted); err != nil {
		t.Fatal(err)
	}
	if m := k.manifest(t, evicted.Digest); m.Cached || m.Size != 9 {
		t.Errorf("%+v", m)
	}
}

// Hostile manifests and configurations are bounded, and tell nothing.
func TestHostileManifests(t *testing.T) {
	k := newKept(t)
	for name, config := range map[string]string{
		"no JSON": "}{", "a list": "[]", "no platform": `{"config":{"Labels":{"a":"b"}}}`, "labels of another type": `{"os":"linux","config":{"Labels":[1]}}`,
		"deep": `{"os":"linux","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`,
		"huge": `{"os":"linux","x":"` + strings.Repeat("x", maxManifest) + `"}`,
	} {
		dgst := k.addManifest(t, ocispec.Manifest{Config: k.add(t, k.near, app, ocispec.MediaTypeImageConfig, []byte(config))})
		if m := k.manifest(t, dgst); m.Image != nil || !m.Cached || !m.Config.Cached {
			t.Errorf("%s: %+v", name, m)
		}
	}
	odd := k.add(t, k.near, app, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","created":"yesterday"}`))
	if m := k.manifest(t, k.addManifest(t, ocispec.Manifest{Config: odd})); m.Image == nil || !m.Image.Created.IsZero() {
		t.Errorf("a configuration without a time: %+v", m.Image)
	}
	var many []ocispec.Descriptor
	for i := range 1500 {
		many = append(many, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(fmt.Sprint(i)), Size: math.MaxInt64})
	}
	if m := k.manifest(t, k.addManifest(t, ocispec.Manifest{Config: odd, Layers: many})); len(m.Layers) != 1000 || m.Omitted != 500 || m.Size != math.MaxInt64 {
		t.Errorf("%d layers, %d omitted, %d bytes", len(m.Layers), m.Omitted, m.Size)
	}
	labeled := func(labels map[string]string) inventory.Manifest {
		body, err := json.Marshal(map[string]any{"os": "linux", "config": map[string]any{"Labels": labels}})
		if err != nil {
			t.Fatal(err)
		}
		return k.manifest(t, k.addManifest(t, ocispec.Manifest{Config: k.add(t, k.near, app, ocispec.MediaTypeImageConfig, body)}))
	}
	labels := make(map[string]string)
	for i := range 300 {
		labels[fmt.Sprintf("label-%03d", i)] = "value"
	}
	if m := labeled(labels); len(m.Image.Labels) != 200 || m.Image.Labels["label-199"] != "value" || m.Omitted != 100 {
		t.Errorf("%d labels, %d omitted", len(m.Image.Labels), m.Omitted)
	}
	if m := labeled(map[string]string{"a": strings.Repeat("<", 64<<10), "b": strings.Repeat("<", 70<<10)}); len(m.Image.Labels) != 1 || m.Omitted != 1 {
		t.Errorf("%d large labels, %d omitted", len(m.Image.Labels), m.Omitted)
	}
	if m := k.manifest(t, k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte("no JSON")).Digest); !m.Cached || m.Layers != nil {
		t.Errorf("%+v", m)
	}
}

// A repository has its tags, blobs and pulls.
func TestRepository(t *testing.T) {
	k := newKept(t)
	desc := k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte("{}"))
	layer := k.add(t, k.near, app, ocispec.MediaTypeImageLayer, []byte("a layer"))
	for _, tag := range []string{"v2", "v1"} {
		if err := k.catalog.PutTag(t.Context(), app, tag, catalog.Tag{Descriptor: desc, Checked: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	k.pulls = catalog.RepositoryPulls{All: catalog.Pulls{Total: 3}, Tags: map[string]catalog.Pulls{"v1": {Total: 2}}}
	got, err := k.Repository(t.Context(), app)
	if err != nil || got.Tags != 2 || got.Contents != 2 || got.Size != desc.Size+layer.Size || got.Pulls.Total != 3 {
		t.Errorf("%+v %v", got, err)
	}
	if tags, err := k.Tags(t.Context(), app); err != nil || strings.Join(tags, " ") != "v1 v2" {
		t.Errorf("%q %v", tags, err)
	}
	if tag, err := k.Tag(t.Context(), app, "v1"); err != nil || tag.Descriptor.Digest != desc.Digest || tag.Pulls.Total != 2 {
		t.Errorf("%+v %v", tag, err)
	}
	if _, err := k.Tag(t.Context(), app, "v3"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("an absent tag: %v", err)
	}
	if got, err := k.Repository(t.Context(), other); err != nil || got.Tags != 0 || got.Contents != 0 {
		t.Errorf("an unknown repository: %+v %v", got, err)
	}
}
