package app

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// maxPostponed bounds the blobs whose removal from the bucket waits for redirected
	// clients, and maxRemovals the removals that wait. Each request of the API makes one.
	maxPostponed = 100_000
	maxRemovals  = 1000
	// deletedAtOnce is how many blobs are deleted by one request, as S3 takes them.
	deletedAtOnce = 1000
	// redirecting is how long a mirror may take from its look at a link to the answer with a URL.
	redirecting = 10 * time.Second
	// settled is how long after its cancellation an upload may still take effect in the bucket.
	settled = 2 * time.Minute
	// removalPatience bounds the deletion of blobs whose time has come.
	removalPatience = 10 * time.Minute
)

// errPostponed says that too many blobs wait for their removal from the bucket.
var errPostponed = errors.New("too many objects are waiting to be removed from the bucket until the redirects to them have expired. Try again later")

// newRemover returns the remover of images.
func newRemover(cfg config.Global, parts *storageParts, cache *namespace.Cache) *namespace.Remover {
	opts := namespace.RemoverOptions{Cache: cache, Stores: []storage.Store{parts.driver}, MaxManifest: int64(cfg.MaxManifestSize)}
	if parts.bucket != nil {
		opts.Stores = append(opts.Stores, parts.bucket.store)
		opts.Far = func(ctx context.Context, contents []digest.Digest) error {
			return parts.bucket.remove(ctx, parts.catalog, contents)
		}
	}
	return namespace.NewRemover(opts)
}

// remove removes blobs from the bucket: at once or, if clients are redirected to it, when no
// mirror believes the links to them any more and all redirects have ended. Contents that a
// repository possesses again by then stay.
func (b *bucket) remove(ctx context.Context, records *catalog.Catalog, contents []digest.Digest) error {
	b.uploads.Forget(contents, func(dgst digest.Digest) { b.removeAgain(records, dgst) })
	if b.promises == 0 {
		return b.deleteAll(ctx, contents)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removals == maxRemovals || b.postponed+len(contents) > maxPostponed {
		return errPostponed
	}
	b.removals++
	b.postponed += len(contents)
	contents = slices.Clone(contents)
	b.removing.Go(func() {
		b.removeLater(records, contents)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.removals--
		b.postponed -= len(contents)
	})
	return nil
}

// removeAgain removes a blob whose upload was under way when it was removed: the bucket may publish it
// although its upload was cancelled.
func (b *bucket) removeAgain(records *catalog.Catalog, dgst digest.Digest) {
	b.removing.Go(func() { b.removeAfter(settled, records, []digest.Digest{dgst}) })
}

// removeLater removes blobs when the promises to clients have ended.
func (b *bucket) removeLater(records *catalog.Catalog, contents []digest.Digest) {
	b.removeAfter(b.absence+b.promises+redirecting, records, contents)
}

// removeAfter removes blobs that no repository possesses after a pause.
func (b *bucket) removeAfter(pause time.Duration, records *catalog.Catalog, contents []digest.Digest) {
	select {
	case <-time.After(pause):
	case <-b.stopped.Done():
		return
	}
	ctx, cancel := context.WithTimeout(b.stopped, removalPatience)
	defer cancel()
	if err := b.deleteUnlinked(ctx, records, contents); err != nil && b.stopped.Err() == nil {
		b.logger.Warn("content of a removed image stays in the bucket until it is evicted. Check that the bucket can be reached, and that its keys may be listed and deleted", "error", err)
	}
}

// deleteUnlinked deletes those blobs that no repository possesses.
func (b *bucket) deleteUnlinked(ctx context.Context, records *catalog.Catalog, contents []digest.Digest) error {
	wanted := make(map[digest.Digest]bool, len(contents))
	for _, dgst := range contents {
		wanted[dgst] = true
	}
	linked, err := records.LinkedElsewhere(ctx, storage.RepoID{}, wanted)
	if err != nil {
		return err
	}
	return b.deleteAll(ctx, slices.DeleteFunc(contents, func(dgst digest.Digest) bool { return linked[dgst] }))
}

func (b *bucket) deleteAll(ctx context.Context, contents []digest.Digest) error {
	for some := range slices.Chunk(contents, deletedAtOnce) {
		if _, err := b.store.DeleteAll(ctx, some); err != nil {
			return err
		}
	}
	return nil
}
