package app

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// pinShare is the part of a max_size that pinned images may take: one half, so that the rest
	// still is a cache.
	pinShare = 2
	// pinPause is the time between two looks at what pinned tags name. With a bucket it is that
	// between two looks of its eviction.
	pinPause = time.Minute
	// maxSender bounds the name of the sender of a pin, in bytes.
	maxSender = 255
)

// openPins returns the pins of a mirror, whose local store has a limit; 0: it has none.
func (s *storageParts) openPins(whole *config.Config, maxSize int64) *namespace.Pins {
	opts := namespace.PinsOptions{
		Catalog: s.catalog, Stores: []storage.Store{s.driver}, MaxManifest: int64(whole.Global.MaxManifestSize), Limit: pinLimit(whole),
		Pause: pinPause, Logger: s.logger,
		Hold: func(ctx context.Context, contents []storage.Info) {
			s.hold(ctx, whole.BlobStore.FS, maxSize/pinShare, contents)
		},
	}
	if s.bucket != nil {
		opts.Stores = append(opts.Stores, s.bucket.store)
		opts.Pause = whole.BlobStore.S3.EvictionInterval.Std()
	}
	return namespace.NewPins(opts)
}

// pinLimit returns how many bytes pinned images may have: a half of the store's limit, which is
// that of the bucket if there is one; 0: there is no limit.
func pinLimit(whole *config.Config) int64 {
	if s3 := whole.BlobStore.S3; s3 != nil {
		return int64(s3.MaxSize) / pinShare
	}
	maxSize, _ := localLimits(whole.BlobStore.FS)
	return maxSize / pinShare
}

// hold keeps pinned blobs on this machine, as many as a part of its limit takes, and tells the
// eviction of the bucket of all.
func (s *storageParts) hold(ctx context.Context, cfg config.FS, limit int64, contents []storage.Info) {
	all, local := make([]digest.Digest, 0, len(contents)), make([]digest.Digest, 0, len(contents))
	var bytes int64
	for _, content := range contents {
		all = append(all, content.Digest)
		if limit <= 0 || bytes+content.Size <= limit {
			bytes += content.Size
			local = append(local, content.Digest)
		}
	}
	s.pinned.Store(&all)
	if cfg.MaxSize == config.NothingKept { // the bucket has them
		local = nil
	}
	s.store.Hold(ctx, local)
}

// pinnedContents returns the blobs that are not evicted from the bucket.
func (s *storageParts) pinnedContents() []digest.Digest {
	if all := s.pinned.Load(); all != nil {
		return *all
	}
	return nil
}

// pinner notes the sender of a request in its pin.
type pinner struct{ *namespace.Pins }

// Pin pins a tag or a manifest of a repository.
func (p pinner) Pin(ctx context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Pinned, error) {
	sender, _ := ctx.Value(senderKey{}).(string)
	return p.Pins.Pin(ctx, repo, part, sender[:min(len(sender), maxSender)])
}

// PinnedContents returns the blobs of a store that pins keep, for commands that run next to a mirror.
func PinnedContents(ctx context.Context, whole *config.Config, store storage.Driver) (map[digest.Digest]bool, error) {
	return namespace.PinnedContents(ctx, namespace.PinsOptions{
		Catalog: catalog.New(store.Records(), catalog.Options{}), Stores: []storage.Store{store}, MaxManifest: int64(whole.Global.MaxManifestSize), Limit: pinLimit(whole),
	})
}
