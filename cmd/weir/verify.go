//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
)

func verifyCommand(paths *[]string) *cobra.Command {
	var jobs int
	var quiet, bucket bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check all stored content for corruption",
		Long: `Read all stored content and compare it with its digests. Content that does not
match is moved to the directory quarantine in blob_store.fs.root_dir and is not
served any more: the next pull downloads it again. You may inspect and remove
quarantined files. Content that cannot be read is reported and stays where it is.
Below each finding, the command lists the images to which the content belongs.

With --bucket, read the bucket of blob_store.s3, one GET for each object, and remove
objects that do not match.
` + besideServer + `

The exit code is 0 if all content is intact, and 1 if any is not, or if the command was
interrupted.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if jobs < 1 {
				return fmt.Errorf("--jobs is %d. It must be at least 1", jobs)
			}
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			work := func(ctx context.Context, store contents) error {
				return verify(ctx, store, verifyOptions{jobs, quiet, int64(cfg.Global.MaxManifestSize)}, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			if bucket {
				return withBucket(cmd.Context(), cfg, func(ctx context.Context, bucket *app.Bucket) error { return work(ctx, bucket) })
			}
			return withStore(cmd.Context(), cfg, func(ctx context.Context, store *disk.Store) error { return work(ctx, store) })
		},
	}
	cmd.Flags().IntVar(&jobs, "jobs", 2, "read `N` objects at once")
	cmd.Flags().BoolVar(&bucket, "bucket", false, "check the bucket of blob_store.s3 and remove corrupt objects")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print only corrupt and unreadable content")
	return cmd
}

type verifyOptions struct {
	jobs        int
	quiet       bool
	maxManifest int64
}

// verify checks a store. It shows its progress on stderr and prints its findings on
// stdout, each with the images that it belongs to.
func verify(ctx context.Context, store contents, opts verifyOptions, stdout, stderr io.Writer) error {
	total, err := count(ctx, store)
	if err != nil {
		return err
	}
	shown := newProgress(writerUnlessQuiet(opts.quiet, stderr), "verifying", total)
	report, err := maintain.Verify(ctx, store, maintain.VerifyOptions{
		Jobs: opts.jobs, Quarantine: store.Quarantine, Progress: shown.advance,
	})
	// The progress ends before the findings are printed: a terminal shows both.
	shown.end(err == nil)
	fmt.Fprintf(writerUnlessQuiet(opts.quiet, stdout), "verified %s\n", describe(report.Verified))
	// Findings are printed also if the check was interrupted: they hold.
	wanted := make(map[digest.Digest]bool)
	for _, wrong := range report.Wrong {
		wanted[wrong.Digest] = true
	}
	// After an interruption the findings are printed without names.
	images, ownersErr := findOwners(ctx, store, store.Records(), opts.maxManifest, wanted)
	if ctx.Err() == nil {
		err = errors.Join(err, ownersErr)
	}
	for _, wrong := range report.Wrong {
		fmt.Fprintln(stdout, finding(wrong))
		if found := images[wrong.Digest]; len(found) > 0 {
			fmt.Fprintf(stdout, "  of %s\n", listed(found))
		}
	}
	if n := len(report.Wrong); n > 0 {
		err = errors.Join(err, fmt.Errorf("corrupt or unreadable objects: %d", n))
	}
	return err
}

// count adds up the sizes of all stored content without reading it.
func count(ctx context.Context, store storage.Store) (total maintain.Amount, err error) {
	for entry, err := range store.All(ctx) {
		if err != nil {
			return total, err
		}
		total.Objects++
		total.Bytes += entry.Size
	}
	return total, nil
}

// finding describes one finding in a line: its kind, the content, and the cause.
func finding(f maintain.Finding) string {
	content := fmt.Sprintf("%s (%s)", f.Digest, units.IEC(f.Size))
	switch {
	case f.Path != "":
		return fmt.Sprintf("quarantined %s: %s", content, f.Path)
	case errors.Is(f.Err, storage.ErrCorrupt):
		return fmt.Sprintf("corrupt but not quarantined %s: %v", content, f.Err)
	default:
		return fmt.Sprintf("unreadable %s: %v", content, f.Err)
	}
}
