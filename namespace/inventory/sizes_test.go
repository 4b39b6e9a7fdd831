package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// absent returns the descriptor of a blob that is not cached.
func absent(name string, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(name), Size: size}
}

// document stores a manifest or an index of app.
func (k *kept) document(t *testing.T, store *storagetest.Memory, document any) ocispec.Descriptor {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return k.add(t, store, app, ocispec.MediaTypeImageManifest, body)
}

// tag gives a manifest of app a tag.
func (k *kept) tag(t *testing.T, tag string, desc ocispec.Descriptor) {
	t.Helper()
	if err := k.catalog.PutTag(t.Context(), app, tag, catalog.Tag{Descriptor: desc}); err != nil {
		t.Fatal(err)
	}
}

// expectSizes fails the test unless tags have these sizes, and no others have any.
func (k *kept) expectSizes(t *testing.T, label string, want map[string]int64) {
	t.Helper()
	tags, err := k.Tags(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Sizes(t.Context(), app, append(tags, "none")); !maps.Equal(got, want) {
		t.Errorf("%s: the sizes are %v, want %v", label, got, want)
	}
}

// The size of an image has each of its parts once, cached or not. That of an index has its cached
// manifests with their parts, and tells how many manifests it leaves out. A tag has the same size.
func TestSizes(t *testing.T) {
	k := newKept(t)
	config := k.add(t, k.near, app, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux"}`))
	base, one, two := absent("base", 1000), absent("one", 200), absent("two", 30)
	image := func(store *storagetest.Memory, parts ...ocispec.Descriptor) ocispec.Descriptor {
		return k.document(t, store, ocispec.Manifest{Config: config, Layers: parts})
	}
	index := func(manifests ...ocispec.Descriptor) ocispec.Descriptor {
		return k.document(t, k.near, ocispec.Index{Manifests: manifests})
	}
	amd64, arm64 := image(k.near, base, one), image(k.far, base, two)
	both := index(amd64, arm64, amd64)
	foreign := k.add(t, k.near, other, ocispec.MediaTypeImageManifest, []byte(`{"layers":[]}`))
	odd := k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte("no JSON"))
	platform := index(arm64, absent("s390x", 500), foreign, odd)
	nested := index(both, image(k.near, one, two))
	artifact := k.document(t, k.near, map[string]any{"artifactType": "a/b", "blobs": []ocispec.Descriptor{one, one, two}})
	last := k.manifest(t, nested.Digest).Manifests[1].Descriptor.Size
	empty := index()

	for name, c := range map[string]struct {
		of        ocispec.Descriptor
		size      int64
		uncounted int
	}{
		"image, whose layers are not cached": {amd64, amd64.Size + config.Size + 1200, 0},
		"layer twice":                        {image(k.near, base, base), amd64.Size + config.Size + 1000, 0},
		"index of images that share layers":  {both, both.Size + amd64.Size + arm64.Size + config.Size + 1230, 0},
		"index with a cached platform":       {platform, platform.Size + arm64.Size + config.Size + 1030, 3},
		"index in an index":                  {nested, nested.Size + both.Size + amd64.Size + arm64.Size + config.Size + 1230 + last, 0},
		"index of none that is cached":       {index(absent("x", 1), absent("y", 1)), 0, 2},
		"empty index":                        {empty, empty.Size, 0},
		"artifact":                           {artifact, artifact.Size + 230, 0},
	} {
		if strings.HasPrefix(name, "layer") { // another manifest than that of amd64
			c.size += c.of.Size - amd64.Size
		}
		if c.size == 0 {
			c.size = c.of.Size
		}
		for range 2 { // from the store, and from memory
			k.tag(t, "v1", c.of)
			if m := k.manifest(t, c.of.Digest); m.Size != c.size || m.Uncounted != c.uncounted {
				t.Errorf("%s: %d bytes without %d manifests, want %d and %d", name, m.Size, m.Uncounted, c.size, c.uncounted)
			}
			k.expectSizes(t, name, map[string]int64{"v1": c.size})
		}
	}
}

// A tag has no size if its manifest is not cached or not readable, and other tags have theirs. What
// was read before no longer counts when it is not cached any longer.
func TestTagsWithoutSizes(t *testing.T) {
	k := newKept(t)
	image := k.document(t, k.near, ocispec.Manifest{Layers: []ocispec.Descriptor{absent("layer", 10)}})
	index := k.document(t, k.near, ocispec.Index{Manifests: []ocispec.Descriptor{image}})
	k.tag(t, "image", image)
	k.tag(t, "index", index)
	k.tag(t, "not-cached", absent("none", 7))
	k.tag(t, "other", k.add(t, k.near, other, ocispec.MediaTypeImageManifest, []byte(`{"layers":[]}`)))
	k.tag(t, "no-manifest", k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte("no JSON")))
	k.tag(t, "too-large", k.add(t, k.near, app, ocispec.MediaTypeImageManifest, []byte(`{"layers":[],"x":"`+strings.Repeat("x", maxManifest)+`"}`)))
	k.expectSizes(t, "all", map[string]int64{"image": image.Size + 10, "index": index.Size + image.Size + 10})

	ended, end := context.WithCancel(t.Context())
	end()
	if got := k.Sizes(ended, app, []string{"image"}); len(got) != 0 {
		t.Errorf("after the end: %v", got)
	}
	if err := k.near.Delete(t.Context(), image.Digest); err != nil {
		t.Fatal(err)
	}
	k.expectSizes(t, "without the image", map[string]int64{"index": index.Size})
}

// looked counts the looks into a store.
type looked struct {
	storage.Store

	opens, stats int
}

func (l *looked) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	l.opens++
	return l.Store.Open(ctx, dgst)
}

func (l *looked) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	l.stats++
	return l.Store.Stat(ctx, dgst)
}

// Manifests are read once, also if many tags name them, and no index has more of them read than the
// bounds allow: neither one of many manifests, nor one of large ones, nor one whose indexes name
// the same indexes again and again.
func TestSizesAreBounded(t *testing.T) {
	k := newKept(t)
	store := &looked{Store: k.near}
	k.Inventory = k.over(store)
	var many, large []ocispec.Descriptor
	for i := range 150 {
		many = append(many, k.document(t, k.near, ocispec.Manifest{Layers: []ocispec.Descriptor{absent(fmt.Sprint(i), 1)}}))
	}
	for i := range 6 {
		blank := strings.Repeat(" ", maxManifest-100)
		large = append(large, k.add(t, k.near, app, ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"layers":[]%s,"x":%d}`, blank, i)))
	}
	again := many[0]
	for range 30 {
		again = k.document(t, k.near, ocispec.Index{Manifests: []ocispec.Descriptor{again, again}})
	}
	for name, c := range map[string]struct {
		of    ocispec.Descriptor
		reads int
	}{
		"many":  {k.document(t, k.near, ocispec.Index{Manifests: many}), 101},
		"large": {k.document(t, k.near, ocispec.Index{Manifests: large}), 7}, // the last two are opened only
		"again": {again, 31},
	} {
		*store = looked{Store: k.near}
		for i := range 50 {
			k.tag(t, fmt.Sprint(name, i), c.of)
		}
		tags := []string{name + "0", name + "1", name + "2"}
		first := k.Sizes(t.Context(), app, tags)
		if len(first) != 3 || store.opens > c.reads || store.stats > 101 {
			t.Errorf("%s: %v after %d reads and %d looks", name, first, store.opens, store.stats)
		}
		if m := k.manifest(t, c.of.Digest); m.Size != first[name+"0"] || m.Uncounted == 0 {
			t.Errorf("%s: %d bytes without %d manifests, and the tag has %v", name, m.Size, m.Uncounted, first)
		}
		if store.opens = 0; name != "large" {
			if k.Sizes(t.Context(), app, tags); store.opens != 0 {
				t.Errorf("%s: %d reads of what is known", name, store.opens)
			}
		}
	}
}
