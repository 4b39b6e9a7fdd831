// Package inventory lists what a mirror has cached, and how it is used: repositories, their
// tags, their images down to the layers, and the pulls of each. It reads records and stored
// content, and asks no upstream.
//
// Looking does not count as a use: it does not delay eviction.
package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// Pulls counts pulls.
type Pulls interface {
	// Of returns the pulls of a repository.
	Of(ctx context.Context, repo storage.RepoID) (catalog.RepositoryPulls, error)
}

// Referrers keep the lists of referrers.
type Referrers interface {
	// KeptReferrers returns the list that was kept of a manifest; none if there is no list.
	KeptReferrers(ctx context.Context, repo storage.RepoID, subject digest.Digest) ([]ocispec.Descriptor, error)
}

// Options are the parts of an [Inventory].
type Options struct {
	Catalog *catalog.Catalog
	// Stores have the content, the nearest first. If one notes uses, those of an Inventory count
	// too: they are drivers, and not what evicts from them.
	Stores      []storage.Store
	Pulls       Pulls
	Referrers   Referrers
	MaxManifest int64 // bytes, also of the configuration of an image
}

// Inventory reads the records and the content of a mirror. All methods may be called
// concurrently.
type Inventory struct {
	opts     Options
	outlines *bounded.Cache[digest.Digest, *outline]
}

// New returns the inventory of a store.
func New(opts Options) *Inventory { return &Inventory{opts, newOutlines()} }

// Repository has the figures of a repository.
type Repository struct {
	Tags     int
	Contents int   // that the repository may serve, stored or not
	Size     int64 // of these blobs, each counted once
	Pulls    catalog.Pulls
}

// Repository returns the figures of a repository; zeros if nothing of it is cached.
func (v *Inventory) Repository(ctx context.Context, repo storage.RepoID) (Repository, error) {
	tags, err := v.opts.Catalog.Tags(ctx, repo)
	if err != nil {
		return Repository{}, err
	}
	r := Repository{Tags: len(tags)}
	for link, err := range v.opts.Catalog.Links(ctx, repo) {
		if err != nil {
			return Repository{}, err
		}
		r.Contents++
		r.Size += link.Size
	}
	pulls, err := v.opts.Pulls.Of(ctx, repo)
	r.Pulls = pulls.All
	return r, err
}

// Tags returns the tags of a repository in lexical order.
func (v *Inventory) Tags(ctx context.Context, repo storage.RepoID) ([]string, error) {
	return v.opts.Catalog.Tags(ctx, repo)
}

// Tag has the record of a tag and its pulls.
type Tag struct {
	catalog.Tag
	Pulls catalog.Pulls // by the tag, and not by the digest of its manifest
}

// Tag returns the record of a tag and its pulls, or ErrNotExist.
func (v *Inventory) Tag(ctx context.Context, repo storage.RepoID, tag string) (Tag, error) {
	record, err := v.opts.Catalog.Tag(ctx, repo, tag)
	if err != nil {
		return Tag{}, err
	}
	pulls, err := v.opts.Pulls.Of(ctx, repo)
	return Tag{Tag: record, Pulls: pulls.Tags[tag]}, err
}

// History returns the manifests that a tag named before, the last one first.
func (v *Inventory) History(ctx context.Context, repo storage.RepoID, tag string) ([]catalog.Named, error) {
	return v.opts.Catalog.History(ctx, repo, tag)
}

// maxParts bounds the layers, and each list, in a Manifest: each entry costs two
// looks into the store. An image has 127 layers at most, in Docker.
const maxParts = 1000

// maxLabels and maxLabelBytes bound the labels of an Image, with their names. An image has some
// ten, and those who make it may write anything there.
const (
	maxLabels     = 200
	maxLabelBytes = 128 << 10
)

// Part is a part of an image: content that a manifest refers to, or a referrer of it.
type Part struct {
	Descriptor ocispec.Descriptor
	Cached     bool // stored here, and the repository may serve it
	// Whole is the size of the image of a cached manifest of an index, in bytes; 0 if it is not
	// known.
	Whole int64
}

// Manifest describes a manifest, its parts and its pulls.
type Manifest struct {
	Descriptor ocispec.Descriptor
	Since      time.Time // when the repository got it; the zero time if that is not known
	Cached     bool
	// The parts are known if the manifest is cached.
	Config    *Part
	Layers    []Part
	Manifests []Part
	Omitted   int // parts and referrers beyond the first thousand of each list, and labels
	// Size is that of the image or of the cached images of an index, each blob counted once; of
	// the manifest alone if it is not cached.
	Size      int64
	Uncounted int // manifests of an index that Size leaves out: not cached, not readable, or too many
	// Image is known if the configuration is cached.
	Image     *Image
	Referrers []Part
	Pulls     catalog.Pulls
}

// Image is a part of the configuration of an image.
type Image struct {
	Created  time.Time
	Platform ocispec.Platform
	Labels   map[string]string
}

// Manifest returns the description of a manifest of a repository, or ErrNotExist if the
// repository has no manifest of that digest.
func (v *Inventory) Manifest(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (Manifest, error) {
	link, err := v.opts.Catalog.Link(ctx, repo, dgst)
	if err == nil && link.MediaType == "" {
		err = fmt.Errorf("%w: %s is not a manifest", storage.ErrNotExist, dgst)
	}
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Descriptor: link, Size: link.Size}
	if m.Since, err = v.opts.Catalog.Since(ctx, repo, dgst); err != nil {
		return Manifest{}, err
	}
	pulls, err := v.opts.Pulls.Of(ctx, repo)
	if err != nil {
		return Manifest{}, err
	}
	m.Pulls = pulls.Images[dgst]
	referrers, err := v.opts.Referrers.KeptReferrers(ctx, repo, dgst)
	if err != nil {
		return Manifest{}, err
	}
	look := v.look(repo)
	if m.Referrers, err = look.parts(ctx, &m, referrers); err != nil {
		return Manifest{}, err
	}
	body, err := v.read(ctx, dgst, v.opts.MaxManifest)
	if missing(err) {
		return m, nil
	}
	if err != nil {
		return Manifest{}, err
	}
	m.Cached = true
	return m, look.inside(ctx, &m, body)
}

// read returns a stored document of at most limit bytes, or ErrNotExist, also if its bytes have
// become others.
func (v *Inventory) read(ctx context.Context, dgst digest.Digest, limit int64) ([]byte, error) {
	obj, err := v.open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer obj.Content.Close()
	if obj.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", storage.ErrNotExist, dgst, obj.Size, limit)
	}
	body, err := io.ReadAll(io.LimitReader(obj.Content, obj.Size))
	if err == nil && dgst.Algorithm().FromBytes(body) != dgst {
		err = fmt.Errorf("%w: %w: %s", storage.ErrNotExist, storage.ErrCorrupt, dgst)
	}
	return body, err
}

// open opens a blob in the first store that has it.
func (v *Inventory) open(ctx context.Context, dgst digest.Digest) (obj *storage.Object, err error) {
	err = storage.ErrNotExist
	for _, store := range v.opts.Stores {
		if obj, err = store.Open(ctx, dgst); !missing(err) {
			break
		}
	}
	return obj, err
}

// cached reports whether a repository may serve a blob that is stored here. Content that
// other repositories have stored is none of its business.
func (v *Inventory) cached(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (bool, error) {
	_, err := v.opts.Catalog.Link(ctx, repo, dgst)
	if err == nil {
		err = storage.ErrNotExist
		for _, store := range v.opts.Stores {
			if _, err = store.Stat(ctx, dgst); !missing(err) {
				break
			}
		}
	}
	if missing(err) {
		return false, nil
	}
	return err == nil, err
}

func missing(err error) bool { return errors.Is(err, storage.ErrNotExist) }

// looking is a look into a manifest.
type looking struct {
	inventory *Inventory
	repo      storage.RepoID
	known     map[digest.Digest]bool // whether blobs are cached

	manifests int   // how many below the manifest may still be looked at for its size
	bytes     int64 // how many of them may still be read
	uncounted int   // manifests that the size leaves out
}

func (v *Inventory) look(repo storage.RepoID) *looking {
	return &looking{inventory: v, repo: repo, known: make(map[digest.Digest]bool), manifests: maxPlatforms, bytes: maxPlatformBytes}
}

// cached reports whether a blob is cached. It looks into the store once.
func (l *looking) cached(ctx context.Context, dgst digest.Digest) (bool, error) {
	if isCached, ok := l.known[dgst]; ok {
		return isCached, nil
	}
	isCached, err := l.inventory.cached(ctx, l.repo, dgst)
	if err == nil {
		l.known[dgst] = isCached
	}
	return isCached, err
}

// parts looks at the blobs of a list.
func (l *looking) parts(ctx context.Context, m *Manifest, list []ocispec.Descriptor) (parts []Part, err error) {
	if len(list) > maxParts {
		m.Omitted += len(list) - maxParts
		list = list[:maxParts]
	}
	for _, desc := range list {
		one := Part{Descriptor: desc}
		if one.Cached, err = l.cached(ctx, desc.Digest); err != nil {
			return nil, err
		}
		parts = append(parts, one)
	}
	return parts, nil
}

// inside looks at the parts of a manifest. A manifest of a form that is not known has none.
func (l *looking) inside(ctx context.Context, m *Manifest, body []byte) error {
	links, err := oci.References(body)
	if err != nil {
		return nil //nolint:nilerr // it is served anyway, whatever it is
	}
	if m.Layers, err = l.parts(ctx, m, slices.Concat(links.Layers, links.Blobs)); err != nil {
		return err
	}
	if m.Manifests, err = l.parts(ctx, m, links.Manifests); err != nil {
		return err
	}
	all, o := newSum(), outlineOf(m.Descriptor.Digest, int64(len(body)), links)
	all.add(o.contents)
	for i, child := range o.manifests {
		whole := newSum()
		if err := l.weighChild(ctx, child, all, whole); err != nil {
			return err
		}
		if i < len(m.Manifests) {
			m.Manifests[i].Whole = whole.total
		}
	}
	m.Size, m.Uncounted = all.total, l.uncounted
	if links.Config == nil {
		return nil
	}
	config, err := l.parts(ctx, m, []ocispec.Descriptor{*links.Config})
	if err != nil {
		return err
	}
	m.Config = &config[0]
	if config[0].Cached {
		if m.Image, err = l.inventory.image(ctx, links.Config.Digest); m.Image != nil {
			m.Omitted += boundLabels(m.Image.Labels)
		}
	}
	return err
}

// boundLabels takes labels out of a map beyond the first ones in the order of their names, and
// returns their number.
func boundLabels(labels map[string]string) (omitted int) {
	bytes := 0
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if bytes += len(name) + len(labels[name]); i >= maxLabels || bytes > maxLabelBytes {
			delete(labels, name)
			omitted++
		}
	}
	return omitted
}

// image reads the configuration of an image. It returns nil if that is not the one of a
// container, or another document than a configuration.
func (v *Inventory) image(ctx context.Context, dgst digest.Digest) (*Image, error) {
	body, err := v.read(ctx, dgst, v.opts.MaxManifest)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var config struct {
		ocispec.Platform

		Created string `json:"created"`
		Config  struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if oci.CheckShape(body) != nil || json.Unmarshal(oci.TrimMark(body), &config) != nil || config.OS == "" {
		return nil, nil
	}
	created, err := time.Parse(time.RFC3339, config.Created)
	if err != nil {
		created = time.Time{} // not verified, and tools leave it out for reproducible images
	}
	return &Image{Created: created, Platform: config.Platform, Labels: config.Config.Labels}, nil
}
