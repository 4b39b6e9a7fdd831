//go:build linux

package main

import (
	"context"
	"errors"
	"os/signal"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
)

// besideServer is a part of the help of each command that works on the store.
const besideServer = `
The command may run while a mirror serves from the same directory. Run it as the same
user.`

// withStore opens the store that a configuration names, for work next to the
// mirror that serves from it, and does that work until it is done or a signal
// ends the context.
func withStore(ctx context.Context, cfg *config.Config, work func(context.Context, *disk.Store) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fs := cfg.BlobStore.FS
	durability := disk.Always
	if fs.SyncToDisk == config.SyncNever {
		durability = disk.Never
	}
	store, err := disk.Open(fs.RootDir, disk.Options{Durability: durability, MinFree: int64(fs.MinFree), Existing: true})
	// A directory without a store is a mistake of the command line or of the
	// configuration, not a failure of the disk.
	if errors.Is(err, disk.ErrNoStore) {
		return failure{exitUsage, app.WithAdvice(err)}
	}
	if err != nil {
		return failure{exitFailed, app.WithAdvice(err)}
	}
	return ended(ctx, errors.Join(work(ctx, store), store.Close()))
}

// contents is a store that a command works on.
type contents interface {
	storage.Store
	Records() storage.Records
	// Quarantine takes a corrupt blob out of the store, and returns its new place.
	Quarantine(ctx context.Context, dgst digest.Digest) (place string, err error)
}

// withBucket is withStore for the bucket of a configuration.
func withBucket(ctx context.Context, cfg *config.Config, work func(context.Context, *app.Bucket) error) error {
	if cfg.BlobStore.S3 == nil {
		return failure{exitUsage, errors.New("--bucket needs a bucket. Set [blob_store.s3]")}
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bucket, err := app.OpenBucket(ctx, cfg.BlobStore.S3)
	if err != nil {
		return failure{exitFailed, app.WithAdvice(err)}
	}
	return ended(ctx, errors.Join(work(ctx, bucket), bucket.Close()))
}

// ended returns the error of a command whose work has ended.
func ended(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// The signal is the cause. The errors of work are its effects.
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return failure{exitFailed, app.WithAdvice(err)}
}
