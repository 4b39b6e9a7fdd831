// Package catalog gives the records of a store their types.
//
//   - A [Tag] is the descriptor that a tag had when an upstream was last asked.
//   - A link says that a repository possesses a digest, and may serve it. One
//     repository's link says nothing about another repository.
//   - A delivery says that a namespace's own upstreams delivered all bytes of a digest.
//   - A [Document] is another answer of an upstream, such as a list of tags.
//   - [RepositoryPulls] are the pulls that a mirror has counted.
//   - A [History] has the manifests that a tag named before.
//   - [Traffic] is what a mirror has answered, over time.
//   - A [Pin] says that an image is to be kept.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
)

// Tag is the last known state of a tag. Of the descriptor, the media type, the
// digest and the size are kept.
type Tag struct {
	Descriptor ocispec.Descriptor `json:"descriptor"`
	Checked    time.Time          `json:"checked"` // when an upstream last said so
	// Fallback is set if another upstream than the first one said so.
	Fallback bool `json:"fallback,omitempty"`
	// Since is when the tag was first seen to name this manifest; the zero time if that is
	// not known.
	Since time.Time `json:"since,omitzero"`
}

// content names a blob as a descriptor does, by those fields alone that a link records:
// there are many links in memory.
type content struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

func (c content) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: c.MediaType, Digest: c.Digest, Size: c.Size}
}

// link is the record that a repository possesses a blob.
type link struct {
	content
	Proven time.Time `json:"proven,omitzero"` // when its upstream last showed or confirmed it
	Since  time.Time `json:"since,omitzero"`  // when the repository got it
}

// Document is an answer of an upstream that is kept for when it cannot be asked,
// such as a list of tags or of referrers.
type Document struct {
	Body    []byte    `json:"body"`
	Checked time.Time `json:"checked"` // when an upstream last said so
}

// Options configure a [Catalog].
type Options struct {
	Tags   int          // tags kept in memory; 0 means 8192. They take at most 8 MiB
	Links  int          // links kept in memory; 0 means 32768. They take at most 24 MiB
	Logger *slog.Logger // of unreadable records; nil discards
	// Shared is set if others change the records too. Then each use reads the record: it is
	// the task of the records themselves to keep some in memory, and to know for how long.
	Shared bool
	// Touch notes the use of a record, for [Catalog.Keep]. A nil Touch notes nothing.
	Touch func(ctx context.Context, key string, used time.Time) error
}

// The bounds of the memory, in bytes, are about twice that of ordinary tags and links.
const (
	maxTagBytes  = 8 << 20
	maxLinkBytes = 24 << 20
)

// Catalog reads and writes typed records.
//
// Tags and links are kept in memory too, up to a bound, so that a warm pull
// reads no file. If a record cannot be written, the memory still learns it: a
// full disk must not turn every pull into a request upstream. A record that
// cannot be read counts as absent, and the next Put replaces it.
//
// If something else writes the same records, they are [Options.Shared]. Otherwise a change
// by another process shows only once the record has left this process's memory.
//
// All methods may be called concurrently. They return ErrInvalidKey, or an error
// about the digest, if an argument cannot be part of a record's key, and
// otherwise the errors of the records.
type Catalog struct {
	records    storage.Records
	tags       *table[Tag]
	links      *table[link]
	deliveries *table[delivery]
	documents  *table[Document]
	pulls      *table[RepositoryPulls]
	histories  *table[History]
	traffic    *table[Traffic]
	pins       *table[Pin]
}

// New returns a catalog over records.
func New(records storage.Records, opts Options) *Catalog {
	if opts.Tags <= 0 {
		opts.Tags = 8192
	}
	if opts.Links <= 0 {
		opts.Links = 32768
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	tags := newTable(records, validTag, opts.Logger)
	links := newTable(records, validLink, opts.Logger)
	tags.remembering(opts.Tags, maxTagBytes, func(t *Tag) int { return len(t.Descriptor.MediaType) + len(t.Descriptor.Digest) })
	links.remembering(opts.Links, maxLinkBytes, func(l *link) int { return len(l.MediaType) + len(l.Digest) })
	tags.trim = func(t *Tag) { t.Descriptor = core(t.Descriptor) }
	tags.skipWrite = recentlyChecked
	tags.shared, links.shared = opts.Shared, opts.Shared
	// Documents are read when an upstream has failed, seldom and each of another size:
	// they have no place in memory.
	documents := newTable(records, validDocument, opts.Logger)
	// Deliveries are read when a repository is about to use bytes that it did not bring.
	deliveries := newTable(records, validDelivery, opts.Logger)
	tags.touch, links.touch, deliveries.touch, documents.touch = opts.Touch, opts.Touch, opts.Touch, opts.Touch
	// Pulls, histories and traffic are read by people, and are written seldom.
	pulls := newTable(records, validRepositoryPulls, opts.Logger)
	histories := newTable(records, validHistory, opts.Logger)
	return &Catalog{
		records: records, tags: tags, links: links, deliveries: deliveries, documents: documents,
		pulls: pulls, histories: histories, traffic: newTable(records, validTraffic, opts.Logger),
		pins: newTable(records, validPin, opts.Logger),
	}
}

// Tag returns the last known state of a tag, or ErrNotExist. Checked is the zero time
// if the record has a time that lies in the future.
func (c *Catalog) Tag(ctx context.Context, repo storage.RepoID, tag string) (Tag, error) {
	key, err := tagKey(repo, tag)
	if err != nil {
		return Tag{}, err
	}
	value, err := c.tags.get(ctx, key)
	value.Checked, value.Since = pastOnly(value.Checked), pastOnly(value.Since)
	return value, err
}

// pastOnly returns a time, or the zero time if it lies in the future. A clock that ran
// ahead when a record was written would keep the record from being checked for years.
func pastOnly(t time.Time) time.Time {
	if t.After(time.Now()) {
		return time.Time{}
	}
	return t
}

// PutTag creates or replaces a tag. If only the time of the check is new, the
// record is written once a minute at most.
func (c *Catalog) PutTag(ctx context.Context, repo storage.RepoID, tag string, value Tag) error {
	key, err := tagKey(repo, tag)
	if err != nil {
		return err
	}
	value.Descriptor = core(value.Descriptor)
	return c.tags.put(ctx, key, value)
}

// DeleteTag forgets a tag, or returns ErrNotExist.
func (c *Catalog) DeleteTag(ctx context.Context, repo storage.RepoID, tag string) error {
	key, err := tagKey(repo, tag)
	if err != nil {
		return err
	}
	return c.tags.delete(ctx, key)
}

// Tags returns the recorded tags of a repository in lexical order, none if the
// repository is unknown.
func (c *Catalog) Tags(ctx context.Context, repo storage.RepoID) ([]string, error) {
	prefix, err := repositoryKey(repo, tagsSegment)
	if err != nil {
		return nil, err
	}
	var tags []string
	for key, err := range c.records.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("storage: cannot list the tags of %s: %w", repo, err)
		}
		tags = append(tags, strings.TrimPrefix(key, prefix+"/"))
	}
	return tags, nil
}

// Link returns the descriptor under which a repository possesses a digest, or
// ErrNotExist. Its media type is that of a manifest, and empty for a blob.
func (c *Catalog) Link(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, error) {
	key, err := LinkKey(repo, dgst)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	known, err := c.links.get(ctx, key)
	return known.descriptor(), err
}

// Proven returns when a repository's upstream last showed or confirmed that the repository
// may serve a blob. It is the zero time if the record has no time or one that lies
// in the future.
func (c *Catalog) Proven(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (time.Time, error) {
	key, err := LinkKey(repo, dgst)
	if err != nil {
		return time.Time{}, err
	}
	known, err := c.links.get(ctx, key)
	return pastOnly(known.Proven), err
}

// Since returns when a repository got a blob. It is the zero time if the record has no
// time or one that lies in the future.
func (c *Catalog) Since(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (time.Time, error) {
	key, err := LinkKey(repo, dgst)
	if err != nil {
		return time.Time{}, err
	}
	known, err := c.links.get(ctx, key)
	return pastOnly(known.Since), err
}

// DeleteLink forgets that a repository may serve a blob, or returns ErrNotExist.
func (c *Catalog) DeleteLink(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	key, err := LinkKey(repo, dgst)
	if err != nil {
		return err
	}
	return c.links.delete(ctx, key)
}

// Links yields the descriptors under which a repository possesses blobs, in
// the order of their keys. It leaves out unreadable records.
func (c *Catalog) Links(ctx context.Context, repo storage.RepoID) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		prefix, err := repositoryKey(repo, linksSegment)
		if err != nil {
			yield(ocispec.Descriptor{}, err)
			return
		}
		for key, err := range c.records.List(ctx, prefix) {
			if err != nil {
				yield(ocispec.Descriptor{}, fmt.Errorf("storage: cannot list the links of %s: %w", repo, err))
				return
			}
			link, err := c.links.get(ctx, key)
			if errors.Is(err, storage.ErrNotExist) { // unreadable, or deleted since it was listed
				continue
			}
			if !yield(link.descriptor(), err) || err != nil {
				return
			}
		}
	}
}

// PutLink records that a repository possesses a blob, by a proof of this moment. It
// writes nothing if the record is the same, or only the time is new by less than a minute. Of the descriptor, the media type, the
// digest and the size are kept. A media type that is known stays when the same
// content is put without one: a manifest that was read as a blob is still a
// manifest.
func (c *Catalog) PutLink(ctx context.Context, repo storage.RepoID, descriptor ocispec.Descriptor) error {
	key, err := LinkKey(repo, descriptor.Digest)
	if err != nil {
		return err
	}
	now := time.Now()
	return c.links.update(ctx, key, func(known link) link {
		proven := link{content: content{descriptor.MediaType, descriptor.Digest, descriptor.Size}, Proven: now, Since: known.Since}
		if known.Digest == "" {
			proven.Since = now
		}
		proven.MediaType = cmp.Or(proven.MediaType, known.MediaType)
		return proven
	}, recentlyProven)
}

// Document returns the document of one kind and name, or ErrNotExist. The name
// may be any string, such as a request's path and query. Checked is the zero time if
// the record has a time that lies in the future.
func (c *Catalog) Document(ctx context.Context, repo storage.RepoID, kind, name string) (Document, error) {
	key, err := documentKey(repo, kind, name)
	if err != nil {
		return Document{}, err
	}
	value, err := c.documents.get(ctx, key)
	value.Checked = pastOnly(value.Checked)
	return value, err
}

// PutDocument creates or replaces a document.
func (c *Catalog) PutDocument(ctx context.Context, repo storage.RepoID, kind, name string, value Document) error {
	key, err := documentKey(repo, kind, name)
	if err != nil {
		return err
	}
	return c.documents.put(ctx, key, value)
}

// UpdateDocument replaces a document by the change of it, or of the zero Document if
// there is none. It writes nothing if change reports false. Two updates of one document
// come one after the other.
func (c *Catalog) UpdateDocument(ctx context.Context, repo storage.RepoID, kind, name string, change func(Document) (Document, bool)) error {
	key, err := documentKey(repo, kind, name)
	if err != nil {
		return err
	}
	return c.documents.replace(ctx, key, change)
}

// Repositories returns the repositories that have a link or a tag, in the order
// of their strings.
//
// It lists the keys of all records, and reads none of them: on disk that is one
// reading of every directory, some 200 ms for 100,000 links, in an object store
// one request per 1,000 links. Call it for a listing that people read, not for
// each pull.
func (c *Catalog) Repositories(ctx context.Context) ([]storage.RepoID, error) {
	var repos []storage.RepoID
	for key, err := range c.records.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("storage: cannot list the repositories: %w", err)
		}
		// Documents and deliveries alone do not make a repository. The keys of one
		// repository have their beginning in common, so that they come one after the other.
		repo, sort, ok := splitKey(key)
		if ok && sort.digest != nil && !sort.whole && (len(repos) == 0 || repos[len(repos)-1] != repo) {
			repos = append(repos, repo)
		}
	}
	slices.SortFunc(repos, compareRepositories)
	return repos, nil
}
