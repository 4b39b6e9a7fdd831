package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
)

// cached fills the store of a configuration: two images with a common layer, an index,
// a manifest without a tag, a blob alone, and content of no image.
type cached struct {
	cfg  *config.Config
	path string
	at   map[string]digest.Digest
}

func newCached(t *testing.T) *cached {
	t.Helper()
	cfg, path := loadText(t, twoRepositories)
	c := &cached{cfg: cfg, path: path, at: make(map[string]digest.Digest)}
	descriptor := func(name string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: c.at[name], Size: 1}
	}
	for _, name := range []string{"base", "top", "alone", "nobody"} {
		c.put(t, name, name)
	}
	manifest := func(layers ...string) ocispec.Manifest {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: descriptor("base")}
		for _, layer := range layers {
			m.Layers = append(m.Layers, descriptor(layer))
		}
		return m
	}
	c.putJSON(t, "one", manifest("base"))
	c.putJSON(t, "two", manifest("base", "top"))
	loop := descriptor("two")
	loop.MediaType = ocispec.MediaTypeImageManifest
	c.putJSON(t, "index", ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{loop, loop}})

	store, err := disk.Open(cfg.BlobStore.FS.RootDir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	records := catalog.New(store.Records(), catalog.Options{})
	app, tool := storage.RepoID{Namespace: "ghcr.io", Name: "org/app"}, storage.RepoID{Namespace: "quay.io", Name: "tool"}
	for _, tag := range []struct {
		repo      storage.RepoID
		name, key string
	}{{app, "1.2", "one"}, {app, "latest", "one"}, {tool, "v1", "index"}, {tool, "gone", "missing"}} {
		dgst := c.at[tag.key]
		if dgst == "" {
			dgst = digest.FromString(tag.key)
		}
		if err := records.PutTag(t.Context(), tag.repo, tag.name, catalog.Tag{Descriptor: ocispec.Descriptor{Digest: dgst, MediaType: ocispec.MediaTypeImageManifest}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"base", "alone"} {
		if err := records.PutLink(t.Context(), app, ocispec.Descriptor{Digest: c.at[key]}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cached) put(t *testing.T, name, content string) {
	t.Helper()
	store(t, c.cfg, content)
	c.at[name] = digest.FromString(content)
}

func (c *cached) putJSON(t *testing.T, name string, document any) {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	c.put(t, name, string(body))
}

func (c *cached) file(name string) string {
	hex := c.at[name].Encoded()
	return filepath.Join(c.cfg.BlobStore.FS.RootDir, "blobs", "sha256", hex[:2], hex)
}

// Corrupt content of each kind is named by its images: by all tags that lead to it, or
// else by the repository that has it.
func TestVerifyNamesImages(t *testing.T) {
	for name, want := range map[string]string{
		"one":    "ghcr.io/org/app:1.2, ghcr.io/org/app:latest",
		"base":   "ghcr.io/org/app:1.2, ghcr.io/org/app:latest, quay.io/tool:v1",
		"top":    "quay.io/tool:v1",
		"two":    "quay.io/tool:v1",
		"index":  "quay.io/tool:v1",
		"alone":  "ghcr.io/org/app@" + digest.FromString("alone").String(),
		"nobody": "",
	} {
		c := newCached(t)
		write(t, c.file(name), "rotten")
		code, stdout, _ := invoke(t, "verify", "--quiet", "--config", c.path)
		if want != "" {
			want = "  of " + want + "\n"
		}
		first, rest, _ := strings.Cut(stdout, "\n")
		if code != exitFailed || !strings.HasPrefix(first, "quarantined "+c.at[name].String()+" (6 B): /") || rest != want {
			t.Errorf("%s: %d, %q, want %q", name, code, stdout, want)
		}
	}
}

// Evicted content is named likewise, before and after the fact. Content of no image
// counts in the sum only.
func TestGCNamesImages(t *testing.T) {
	c := newCached(t)
	size := func(name string) int64 {
		info, err := os.Stat(c.file(name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	app := fmt.Sprintf("2 objects, %d B\n", size("one")+size("base"))
	tool := fmt.Sprintf("4 objects, %d B\n", size("index")+size("two")+size("top")+size("base"))
	want := "  ghcr.io/org/app:1.2: " + app + "  ghcr.io/org/app:latest: " + app +
		"  ghcr.io/org/app@" + digest.FromString("alone").String() + ": 1 object, 5 B\n" + "  quay.io/tool:v1: " + tool
	for _, args := range [][]string{{"--dry-run"}, nil} {
		code, stdout, stderr := invoke(t, append([]string{"gc", "--max-size", "0", "--config", c.path}, args...)...)
		if _, images, _ := strings.Cut(stdout, "\n"); code != exitFine || images != want || !strings.Contains(stdout, "7 objects") {
			t.Errorf("%v: %d, %s%s; want\n%s", args, code, stdout, stderr, want)
		}
	}
	// An image that is older than another one is the only one to lose content.
	c = newCached(t)
	if code, stdout, _ := invoke(t, "gc", "--max-unused", "1d", "--config", c.path); code != exitFine || strings.Contains(stdout, "ghcr.io") {
		t.Errorf("nothing is that old: %d, %s", code, stdout)
	}
}

// Images of two repositories that are printed alike have a line each.
func TestOwnersThatSpellAlike(t *testing.T) {
	c := newCached(t)
	store, err := disk.Open(c.cfg.BlobStore.FS.RootDir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	records, wanted := catalog.New(store.Records(), catalog.Options{}), map[digest.Digest]bool{c.at["one"]: true}
	for _, repo := range []storage.RepoID{{Namespace: "ghcr.io/acme", Name: "app"}, {Namespace: "ghcr.io", Name: "acme/app"}} {
		if err := records.PutTag(t.Context(), repo, "v1", catalog.Tag{Descriptor: ocispec.Descriptor{Digest: c.at["one"], MediaType: ocispec.MediaTypeImageManifest}}); err != nil {
			t.Fatal(err)
		}
	}
	images, err := findOwners(t.Context(), store, store.Records(), 1<<20, wanted)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	printByImage(&out, []storage.Entry{{Info: storage.Info{Digest: c.at["one"], Size: 7}}}, images)
	const line = "  ghcr.io/acme/app:v1: 1 object, 7 B\n"
	if got := strings.Count(out.String(), line); got != 2 {
		t.Errorf("%d lines for two images:\n%s", got, &out)
	}
}

// A base layer can belong to hundreds of images.
func TestListed(t *testing.T) {
	for want, n := range map[string]int{"": 0, "x": 1, "x, x, x, x, x, x, x, x, x, x": 10, "x, x, x, x, x, x, x, x, x, x and 90 more": 100} {
		images := slices.Repeat([]image{{storage.RepoID{Namespace: "x", Name: "y"}, oci.ByTag("z")}}, n)
		if got := strings.ReplaceAll(listed(images), "x/y:z", "x"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// An image nested deeper than real ones is followed for some levels only.
func TestOwnersOfNestedIndexes(t *testing.T) {
	c := newCached(t)
	store, err := disk.Open(c.cfg.BlobStore.FS.RootDir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	inner, wanted := c.at["one"], make(map[digest.Digest]bool)
	for level := range 2 * maxNesting {
		name := fmt.Sprint("level ", level)
		c.putJSON(t, name, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageIndex, Digest: inner, Size: 1}}})
		inner = c.at[name]
		wanted[inner] = true
	}
	records := catalog.New(store.Records(), catalog.Options{})
	if err := records.PutTag(t.Context(), storage.RepoID{Namespace: "ghcr.io", Name: "deep"}, "v1", catalog.Tag{Descriptor: ocispec.Descriptor{Digest: inner, MediaType: ocispec.MediaTypeImageIndex}}); err != nil {
		t.Fatal(err)
	}
	images, err := findOwners(t.Context(), store, store.Records(), 1<<20, wanted)
	// The manifests that the last one lists are named too, and not read.
	if err != nil || len(images) != maxNesting+1 {
		t.Errorf("%d levels are named, want %d: %v", len(images), maxNesting+1, err)
	}
}
