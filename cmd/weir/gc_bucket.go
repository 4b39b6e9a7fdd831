//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/maintain"
)

// errDry ends a dry run once it is known what would go.
var errDry = errors.New("nothing is removed in a dry run")

// runBucket is run for a bucket.
func (o gcOptions) runBucket(ctx context.Context, bucket *app.Bucket, cfg *config.Config, limits maintain.EvictOptions, stdout io.Writer) error {
	var images map[digest.Digest][]image
	var entries []storage.Entry
	var report maintain.EvictReport
	count := func(entry storage.Entry) {
		entries = append(entries, entry)
		report.Removed.Objects++
		report.Removed.Bytes += entry.Size
	}
	objects, bytes, err := bucket.Evict(ctx, cfg, evict.Collection{
		MaxBytes: limits.MaxBytes, MaxUnused: limits.MaxUnused, Removed: count,
		Chosen: func(chosen []storage.Entry, grace time.Duration) (err error) {
			victims := make(map[digest.Digest]bool)
			for _, entry := range chosen {
				victims[entry.Digest] = true
			}
			// The manifests that name the content may go too.
			if images, err = findOwners(ctx, bucket, bucket.Records(), int64(cfg.Global.MaxManifestSize), victims); err != nil {
				return err
			}
			if o.dryRun {
				for _, entry := range chosen {
					count(entry)
				}
				return errDry
			}
			if len(chosen) > 0 {
				fmt.Fprintf(stdout, "marked %d objects, which are removed in %s\n", len(chosen), units.Duration(grace))
			}
			return nil
		},
	})
	removed := "removed"
	report.Left = maintain.Amount{Objects: objects, Bytes: bytes}
	if errors.Is(err, errDry) {
		err = nil
		removed = "would remove"
		report.Left.Objects -= report.Removed.Objects
		report.Left.Bytes -= report.Removed.Bytes
	}
	fmt.Fprintf(stdout, "%s %s; kept %s\n", removed, describe(report.Removed), describe(report.Left))
	printByImage(stdout, entries, images)
	if err != nil || !o.records {
		return err
	}
	pruned, err := o.pruneBucket(ctx, bucket, entries)
	fmt.Fprintf(stdout, "%s tags: %d, links: %d, repositories: %d\n", removed, pruned.Tags, pruned.Links, pruned.Repositories)
	if pruned.Documents > 0 {
		fmt.Fprintf(stdout, "%s unused records: %d\n", removed, pruned.Documents)
	}
	return err
}

// pruneBucket removes the records of content that the bucket does not have.
func (o gcOptions) pruneBucket(ctx context.Context, bucket *app.Bucket, evicted []storage.Entry) (catalog.PruneReport, error) {
	// One listing costs less than a question for each record.
	present := make(map[digest.Digest]struct{})
	for entry, err := range bucket.Contents(ctx, func(string, int64) {}) {
		if err != nil {
			return catalog.PruneReport{}, err
		}
		present[entry.Digest] = struct{}{}
	}
	for _, entry := range evicted { // a dry run has left them
		delete(present, entry.Digest)
	}
	return catalog.New(bucket.Records(), catalog.Options{}).Prune(ctx, catalog.PruneOptions{
		DryRun: o.dryRun, Keeper: bucket, Stale: staleList,
		Gone: func(ctx context.Context, dgst digest.Digest) (bool, error) {
			if _, ok := present[dgst]; ok {
				return false, nil
			}
			if o.dryRun {
				return true, nil
			}
			// It may have been uploaded since.
			_, err := bucket.Stat(ctx, dgst)
			if errors.Is(err, storage.ErrNotExist) {
				return true, nil
			}
			return false, err
		},
	})
}
