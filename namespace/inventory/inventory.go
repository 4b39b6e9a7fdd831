// Package inventory tells what a mirror has cached, and how it is used: repositories, their
// tags, their images down to the layers, and the pulls of each. It reads records and stored
// content, and asks no upstream.
//
// To look is no use: content that is only looked at is evicted as early as before.
package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
type Inventory struct{ opts Options }

// New returns the inventory of a store.
func New(opts Options) *Inventory { return &Inventory{opts} }

// Repository has the figures of a repository.
type Repository struct {
	Tags     int
	Contents int   // that the repository may serve, stored or not
	Size     int64 // of these contents, each counted once
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

// maxParts bounds the layers, and each list, of which a Manifest tells: each entry costs two
// looks into the store. An image has 127 layers at most, in Docker.
const maxParts = 1000

// Part is a content that a manifest refers to, or a referrer of it.
type Part struct {
	Descriptor ocispec.Descriptor
	Cached     bool // stored here, and the repository may serve it
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
	Omitted   int   // parts and referrers beyond the first thousand of each list
	Size      int64 // of the manifest and its parts, each counted once. Of an index, those of its manifests are left out
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
	look := &looking{inventory: v, repo: repo, of: &m, seen: make(map[digest.Digest]bool)}
	if m.Referrers, err = look.parts(ctx, referrers); err != nil {
		return Manifest{}, err
	}
	m.Size = link.Size // the referrers are no parts
	clear(look.seen)
	body, err := v.read(ctx, dgst)
	if errors.Is(err, storage.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return Manifest{}, err
	}
	m.Cached = true
	return m, look.inside(ctx, body)
}

// read returns a stored document, or ErrNotExist, also if its bytes have become others.
func (v *Inventory) read(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	obj, err := v.open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer obj.Content.Close()
	if obj.Size > v.opts.MaxManifest {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than a manifest", storage.ErrNotExist, dgst, obj.Size)
	}
	body, err := io.ReadAll(io.LimitReader(obj.Content, obj.Size))
	if err == nil && dgst.Algorithm().FromBytes(body) != dgst {
		err = fmt.Errorf("%w: %w: %s", storage.ErrNotExist, storage.ErrCorrupt, dgst)
	}
	return body, err
}

// open opens a content in the first store that has it.
func (v *Inventory) open(ctx context.Context, dgst digest.Digest) (obj *storage.Object, err error) {
	err = storage.ErrNotExist
	for _, store := range v.opts.Stores {
		if obj, err = store.Open(ctx, dgst); !errors.Is(err, storage.ErrNotExist) {
			break
		}
	}
	return obj, err
}

// cached reports whether a repository may serve a content that is stored here. Content that
// other repositories have stored is none of its business.
func (v *Inventory) cached(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (bool, error) {
	_, err := v.opts.Catalog.Link(ctx, repo, dgst)
	if err == nil {
		err = storage.ErrNotExist
		for _, store := range v.opts.Stores {
			if _, err = store.Stat(ctx, dgst); !errors.Is(err, storage.ErrNotExist) {
				break
			}
		}
	}
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// looking is a look into a manifest.
type looking struct {
	inventory *Inventory
	repo      storage.RepoID
	of        *Manifest
	seen      map[digest.Digest]bool
}

// parts looks at the contents of a list, and adds the sizes of those that it has not seen.
func (l *looking) parts(ctx context.Context, list []ocispec.Descriptor) (parts []Part, err error) {
	for i, desc := range list {
		if i == maxParts {
			l.of.Omitted += len(list) - maxParts
		}
		if !l.seen[desc.Digest] {
			l.seen[desc.Digest] = true
			l.of.Size += min(max(desc.Size, 0), math.MaxInt64-l.of.Size) // the sizes are a stranger's words
		}
		if i >= maxParts {
			continue
		}
		one := Part{Descriptor: desc}
		if one.Cached, err = l.inventory.cached(ctx, l.repo, desc.Digest); err != nil {
			return nil, err
		}
		parts = append(parts, one)
	}
	return parts, nil
}

// inside looks at the parts of a manifest. A manifest of a form that is not known has none.
func (l *looking) inside(ctx context.Context, body []byte) error {
	links, err := oci.References(body)
	if err != nil {
		return nil //nolint:nilerr // it is served all the same, whatever it is
	}
	if l.of.Layers, err = l.parts(ctx, slices.Concat(links.Layers, links.Blobs)); err != nil {
		return err
	}
	if l.of.Manifests, err = l.parts(ctx, links.Manifests); err != nil || links.Config == nil {
		return err
	}
	config, err := l.parts(ctx, []ocispec.Descriptor{*links.Config})
	if err != nil {
		return err
	}
	l.of.Config = &config[0]
	if config[0].Cached {
		l.of.Image, err = l.inventory.image(ctx, links.Config.Digest)
	}
	return err
}

// image reads the configuration of an image. It returns nil if that is not the one of a
// container, or another document than a configuration.
func (v *Inventory) image(ctx context.Context, dgst digest.Digest) (*Image, error) {
	body, err := v.read(ctx, dgst)
	if errors.Is(err, storage.ErrNotExist) {
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
		created = time.Time{} // a stranger's word, which tools leave out for reproducible images
	}
	return &Image{Created: created, Platform: config.Platform, Labels: config.Config.Labels}, nil
}
