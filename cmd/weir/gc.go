//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
)

// staleList is how long a list stays of a repository from which nothing is stored: a
// client that lists tags pulls one of them soon.
const staleList = 24 * time.Hour

// gcOptions are the flags of gc.
type gcOptions struct {
	maxSize   *config.Size     // nil: not given
	maxUnused *config.Duration // nil: not given
	dryRun    bool
	records   bool
	bucket    bool
}

const gcLong = `Remove stored content that has not been used for a given time, then the least
recently used content until the rest fits into a given size. Both limits come from
the configuration (blob_store.fs) unless a flag sets them. Before that, each
repository block with a max_size loses its own least recently used content down to
it. Removed content is downloaded again when a client asks for it. Running pulls are
not disturbed. Pinned images stay. The output has a line for each image that lost
content; content that several images share counts for each of them.

With --prune-records, also remove the tags and links of content that no longer exists.
Repositories without any content left then disappear from the catalog. Lists of
repositories without content are removed after a day, unused records after the same
time as content, and empty directories at once. Stop the mirror first. Otherwise a
repository that is pulled again stays out of the catalog until the mirror restarts.

With --bucket, evict from the bucket of blob_store.s3, down to its limits. Content is
marked first, so that no client is redirected to it, and removed when all redirects
have expired: after two and a half times eviction_interval and, with redirects,
presign_ttl_secs. Content that a mirror uses in the meantime stays. The command fails
while a mirror with limits evicts by itself.
`

func gcCommand(paths *[]string) *cobra.Command {
	var opts gcOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Evict stored content now",
		Long:  gcLong + besideServer,
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			limits, at := opts.limits(int64(cfg.BlobStore.FS.MaxSize), time.Duration(cfg.BlobStore.FS.MaxUnused)), "blob_store.fs"
			if s3 := cfg.BlobStore.S3; opts.bucket && s3 != nil {
				limits, at = opts.limits(int64(s3.MaxSize), time.Duration(s3.MaxUnused)), "blob_store.s3"
			}
			// A command that removes nothing by default would look like one that
			// has done its work.
			if limits.MaxBytes == nil && limits.MaxUnused == nil && !opts.records && !app.HasCaps(cfg) {
				return fmt.Errorf("no limit is set, so there is nothing to evict. Use --max-size or --max-unused, or set max_size or max_unused of %s, or max_size of a repository block", at)
			}
			if opts.bucket {
				return withBucket(cmd.Context(), cfg, func(ctx context.Context, bucket *app.Bucket) error {
					return opts.runBucket(ctx, bucket, cfg, limits, cmd.OutOrStdout())
				})
			}
			return withStore(cmd.Context(), cfg, func(ctx context.Context, store *disk.Store) error {
				pinned, err := app.PinnedContents(ctx, cfg, store)
				if err != nil {
					return err
				}
				limits.Keeps = func(dgst digest.Digest) bool { return pinned[dgst] }
				caps, err := app.Caps(ctx, cfg, store)
				if err != nil {
					return err
				}
				if caps != nil {
					limits.Caps, limits.Owner = caps.Bytes, caps.Owner
				}
				return opts.run(ctx, store, limits, int64(cfg.Global.MaxManifestSize), cmd.OutOrStdout())
			})
		},
	}
	flags := cmd.Flags()
	flags.Func("max-size", "keep at most `SIZE` of content, such as 200GiB; 0 keeps none", func(text string) error {
		opts.maxSize = new(config.Size)
		return opts.maxSize.UnmarshalText([]byte(text))
	})
	flags.Func("max-unused", "remove content that has not been used for `DURATION`, such as 30d", func(text string) error {
		opts.maxUnused = new(config.Duration)
		return opts.maxUnused.UnmarshalText([]byte(text))
	})
	flags.BoolVar(&opts.dryRun, "dry-run", false, "remove nothing and print what would be removed")
	flags.BoolVar(&opts.bucket, "bucket", false, "evict from the bucket of blob_store.s3")
	flags.BoolVar(&opts.records, "prune-records", false, "remove tags and links of content that no longer exists")
	return cmd
}

// limits are those of the configuration, unless a flag says otherwise.
func (o gcOptions) limits(maxSize int64, maxUnused time.Duration) maintain.EvictOptions {
	limits := maintain.EvictOptions{DryRun: o.dryRun}
	// 0 in the configuration stands for no limit. A flag of 0 is a limit: it
	// leaves nothing.
	if maxSize > 0 {
		limits.MaxBytes = &maxSize
	}
	if maxUnused > 0 {
		limits.MaxUnused = &maxUnused
	}
	if o.maxSize != nil {
		limits.MaxBytes = new(int64(*o.maxSize))
	}
	if o.maxUnused != nil {
		limits.MaxUnused = new(o.maxUnused.Std())
	}
	return limits
}

// run evicts content and, with --prune-records, prunes records. It prints how much
// was removed, and of which images, also if it fails halfway.
func (o gcOptions) run(ctx context.Context, store *disk.Store, limits maintain.EvictOptions, maxManifest int64, stdout io.Writer) error {
	images, err := o.victims(ctx, store, limits, maxManifest)
	if err != nil {
		return err
	}
	evicted := make(map[digest.Digest]bool)
	var entries []storage.Entry
	limits.Evicted = func(entry storage.Entry) {
		entries = append(entries, entry)
		// A dry run removes nothing, so the store would not miss it.
		evicted[entry.Digest] = o.dryRun
	}
	report, err := maintain.Evict(ctx, store, limits)
	removed := "removed"
	if o.dryRun {
		removed = "would remove"
	}
	fmt.Fprintf(stdout, "%s %s; kept %s\n", removed, describe(report.Removed), describe(report.Left))
	printByImage(stdout, entries, images)
	// Content that could not be removed keeps its records.
	if err != nil || !o.records {
		return err
	}
	records := catalog.New(store.Records(), catalog.Options{})
	pruned, err := records.Prune(ctx, catalog.PruneOptions{
		DryRun: o.dryRun, Keeper: store, Stale: staleList,
		Gone: func(ctx context.Context, dgst digest.Digest) (bool, error) {
			_, err := store.Stat(ctx, dgst)
			// Any other failure keeps the records: the content may still be there.
			if errors.Is(err, storage.ErrNotExist) || evicted[dgst] {
				return true, nil
			}
			return false, err
		},
	})
	fmt.Fprintf(stdout, "%s tags: %d, links: %d, repositories: %d\n", removed, pruned.Tags, pruned.Links, pruned.Repositories)
	if err != nil {
		return err
	}
	unused := pruned.Documents
	if limits.MaxUnused != nil {
		trimmed, err := records.Trim(ctx, store, *limits.MaxUnused, o.dryRun)
		if unused += trimmed.Removed; err != nil {
			return err
		}
	}
	empty, err := store.RemoveEmpty(ctx, o.dryRun)
	if unused+empty > 0 {
		fmt.Fprintf(stdout, "%s unused records: %d, empty directories: %d\n", removed, unused, empty)
	}
	return err
}

// victims returns the images of the content that is to be evicted. They are found
// before the eviction, which may remove the manifests that name the content.
func (o gcOptions) victims(ctx context.Context, store *disk.Store, limits maintain.EvictOptions, maxManifest int64) (map[digest.Digest][]image, error) {
	victims := make(map[digest.Digest]bool)
	limits.DryRun = true
	limits.Evicted = func(entry storage.Entry) { victims[entry.Digest] = true }
	if _, err := maintain.Evict(ctx, store, limits); err != nil {
		return nil, err
	}
	return findOwners(ctx, store, store.Records(), maxManifest, victims)
}
