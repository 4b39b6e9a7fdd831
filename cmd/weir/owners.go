//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/maintain"
)

// maxNesting bounds how deep indexes in indexes are followed. Real images have two
// levels, an index and its manifests; registries accept any number.
const maxNesting = 8

// owners finds the images that some blobs belong to, so that people read names
// rather than digests.
type owners struct {
	store       storage.Store
	maxManifest int64
	wanted      map[digest.Digest]bool
	images      map[digest.Digest][]image // found so far; sorted and unique only in the end
}

// image is an image of a repository. Images are told apart by the repository itself:
// two of them may be printed alike.
type image struct {
	repo storage.RepoID
	ref  oci.Reference
}

// String names the image for the output.
func (i image) String() string { return i.ref.Join(i.repo.String()) }

func compareImages(a, b image) int {
	return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.repo.Namespace, b.repo.Namespace))
}

// findOwners returns the images of each wanted content, in alphabetical order. An
// image is a tag whose manifest leads to the content, such as ghcr.io/org/app:1.2, or
// else a link of the catalog, such as ghcr.io/org/app@sha256:.... Content that no
// record names has no images.
func findOwners(ctx context.Context, store storage.Store, records storage.Records, maxManifest int64, wanted map[digest.Digest]bool) (map[digest.Digest][]image, error) {
	o := &owners{store: store, maxManifest: maxManifest, wanted: wanted, images: make(map[digest.Digest][]image)}
	if len(wanted) == 0 {
		return o.images, nil
	}
	catalog := catalog.New(records, catalog.Options{})
	repositories, err := catalog.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	for _, repo := range repositories {
		if err := o.addRepository(ctx, catalog, repo); err != nil {
			return nil, err
		}
	}
	for dgst, images := range o.images {
		slices.SortFunc(images, compareImages)
		o.images[dgst] = slices.Compact(images)
	}
	return o.images, nil
}

func (o *owners) addRepository(ctx context.Context, catalog *catalog.Catalog, repo storage.RepoID) error {
	tags, err := catalog.Tags(ctx, repo)
	if err != nil {
		return err
	}
	reached := make(map[digest.Digest]bool) // from any tag
	for _, name := range tags {
		tag, err := catalog.Tag(ctx, repo, name)
		// It went since it was listed, or its record cannot be read.
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		seen := make(map[digest.Digest]bool)
		o.follow(ctx, tag.Descriptor.Digest, image{repo, oci.ByTag(name)}, seen, maxNesting)
		maps.Copy(reached, seen)
	}
	for link, err := range catalog.Links(ctx, repo) {
		if err != nil {
			return err
		}
		if o.wanted[link.Digest] && !reached[link.Digest] {
			o.images[link.Digest] = append(o.images[link.Digest], image{repo, oci.ByDigest(link.Digest)})
		}
	}
	return nil
}

// follow adds an image to a manifest and to all content that it leads to. A manifest
// that is gone or corrupt leads nowhere. seen ends loops, and levels the nesting.
func (o *owners) follow(ctx context.Context, dgst digest.Digest, image image, seen map[digest.Digest]bool, levels int) {
	if levels == 0 || ctx.Err() != nil || !o.see(dgst, image, seen) {
		return
	}
	object, err := o.store.Open(ctx, dgst)
	if err != nil {
		return
	}
	body, err := oci.ReadManifest(object.Content, o.maxManifest)
	object.Content.Close()
	if err != nil {
		return
	}
	links, err := oci.References(body)
	if err != nil {
		return
	}
	for _, manifest := range links.Manifests {
		o.follow(ctx, manifest.Digest, image, seen, levels-1)
	}
	for _, blob := range links.Content() {
		o.see(blob.Digest, image, seen)
	}
}

// see adds an image to a blob. It returns false if it has seen the content before.
func (o *owners) see(dgst digest.Digest, image image, seen map[digest.Digest]bool) bool {
	if seen[dgst] {
		return false
	}
	seen[dgst] = true
	if o.wanted[dgst] {
		o.images[dgst] = append(o.images[dgst], image)
	}
	return true
}

// printByImage prints how much of each image is among some entries.
func printByImage(w io.Writer, entries []storage.Entry, images map[digest.Digest][]image) {
	sums := make(map[image]maintain.Amount)
	for _, entry := range entries {
		for _, image := range images[entry.Digest] {
			sum := sums[image]
			sum.Objects++
			sum.Bytes += entry.Size
			sums[image] = sum
		}
	}
	for _, image := range slices.SortedFunc(maps.Keys(sums), compareImages) {
		fmt.Fprintf(w, "  %s: %s\n", image, describe(sums[image]))
	}
}

// listed returns the first images of a list as one text: a base layer can belong to
// hundreds.
func listed(images []image) string {
	const most = 10
	var names []string
	for _, image := range images[:min(most, len(images))] {
		names = append(names, image.String())
	}
	text := strings.Join(names, ", ")
	if len(images) > most {
		return fmt.Sprintf("%s and %d more", text, len(images)-most)
	}
	return text
}
