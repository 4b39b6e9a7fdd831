package namespace

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// pendingLife is how long after a HEAD of a tag the manifest may arrive that
// makes the tag known. Docker sends its GET by digest at once; ten minutes allow
// for a slow client and are short enough that tags seldom move meanwhile.
const pendingLife = 10 * time.Minute

// tagBook holds the tags that are known, and is the only writer of their records and of their
// histories.
//
// A tag leads to a manifest that is stored. A tag that was seen to name another
// manifest is pending until that one is stored: the old manifest can still be
// served if the upstream fails, and the new one may never arrive.
//
//	Observe, stored                     Gone, Drop
//	--------------------------> recorded ----------->
//	Observe, not stored             ^
//	--------------------> pending --+ Stored
type tagBook struct {
	catalog *catalog.Catalog
	health  *storage.Health // of the records
	pending *bounded.Cache[content, pendingTag]
	logger  *slog.Logger
}

func newTagBook(o CacheOptions) *tagBook {
	size := func(key content, p pendingTag) int {
		return key.size() + len(key.digest) + len(p.tag) + len(p.Descriptor.MediaType)
	}
	return &tagBook{catalog: o.Catalog, health: o.Records, pending: bounded.New(maxRemembered, maxRememberedBytes, size), logger: o.Logger}
}

// content is a digest within a repository.
type content struct {
	repo   storage.RepoID
	digest digest.Digest
}

// size returns the bytes of the strings of a key.
func (c content) size() int { return len(c.repo.Namespace) + len(c.repo.Name) + len(c.digest) }

// pendingTag is a tag whose manifest is not stored yet.
type pendingTag struct {
	tag string
	catalog.Tag
}

// seen is an upstream's word about a tag.
type seen struct {
	desc   ocispec.Descriptor
	at     time.Time
	stored bool // the manifest is in the store, and linked to the repository
	// fallback is set if another upstream than the first said so. The tag is not immutable
	// before the first one has confirmed it.
	fallback bool
}

// Current returns the record of a tag. It reports false if there is none.
func (b *tagBook) Current(ctx context.Context, repo storage.RepoID, tag string) (catalog.Tag, bool) {
	record, err := b.catalog.Tag(ctx, repo, tag)
	return record, err == nil
}

// Observe notes the manifest that an upstream says a tag names.
func (b *tagBook) Observe(ctx context.Context, repo storage.RepoID, tag string, s seen) {
	record := catalog.Tag{Descriptor: s.desc, Checked: s.at, Fallback: s.fallback}
	// A record that leads to no stored manifest could not be served.
	if !s.stored {
		b.pending.Add(content{repo, s.desc.Digest}, pendingTag{tag, record})
		return
	}
	b.put(ctx, repo, tag, record)
}

// Stored records the tag that is pending for a manifest which is stored and
// linked to the repository now, unless that was long ago or the tag was checked
// since.
func (b *tagBook) Stored(ctx context.Context, repo storage.RepoID, dgst digest.Digest) {
	key := content{repo, dgst}
	p, ok := b.pending.Get(key)
	if !ok {
		return
	}
	b.pending.Remove(key)
	known, ok := b.Current(ctx, repo, p.tag)
	if time.Since(p.Checked) < pendingLife && (!ok || known.Checked.Before(p.Checked)) {
		b.put(ctx, repo, p.tag, p.Tag)
	}
}

// Gone forgets a tag that its upstream no longer has.
func (b *tagBook) Gone(ctx context.Context, repo storage.RepoID, tag string) {
	if known, ok := b.Current(ctx, repo, tag); ok {
		b.leave(ctx, repo, tag, known)
	}
	if err := b.catalog.DeleteTag(ctx, repo, tag); err != nil && !errors.Is(err, storage.ErrNotExist) {
		b.logger.Warn("cannot remove the record of a tag that its upstream no longer has", "repository", repo.String(), "tag", tag, "error", err)
	}
}

// Drop forgets a tag that is taken out of the cache. It succeeds if there is none.
func (b *tagBook) Drop(ctx context.Context, repo storage.RepoID, tag string) error {
	if known, ok := b.Current(ctx, repo, tag); ok {
		b.leave(ctx, repo, tag, known)
	}
	if err := b.catalog.DeleteTag(ctx, repo, tag); err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	return nil
}

// leave notes, in the history of a tag, the manifest that the tag no longer names.
func (b *tagBook) leave(ctx context.Context, repo storage.RepoID, tag string, known catalog.Tag) {
	named := catalog.Named{Digest: known.Descriptor.Digest, First: known.Since, Last: known.Checked}
	recorded(b.health, b.catalog.AddHistory(ctx, repo, tag, named), repo, "tag", tag)
}

// put records a tag. The manifest that it named before goes into its history.
func (b *tagBook) put(ctx context.Context, repo storage.RepoID, tag string, record catalog.Tag) {
	known, ok := b.Current(ctx, repo, tag)
	switch {
	case !ok:
		record.Since = record.Checked
	case known.Descriptor.Digest == record.Descriptor.Digest:
		record.Since = known.Since
	default:
		record.Since = record.Checked
		b.leave(ctx, repo, tag, known)
	}
	recorded(b.health, b.catalog.PutTag(ctx, repo, tag, record), repo, "tag", tag)
}
