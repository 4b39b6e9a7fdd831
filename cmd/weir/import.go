//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/storage/spool"
)

const importLong = `Copy the stored content of another registry into the store. The other registry may be
Docker's registry (Distribution), Harbor or Angos. PATH is its data directory, such as
/var/lib/registry, or a directory below it. Nothing is written there.

All content is compared with its digest while it is copied. Links, devices, damaged
files and unreadable files are skipped and reported. Content that is already stored is
not read, so an interrupted import continues where it ended. The newest content is
copied first. Content that does not fit into max_size, or would use up min_free, is
left out; nothing is evicted to make room for it.

An import grants no rights: the first pull of an image asks its upstream for the
manifest and for some bytes of each layer, and downloads no imported layer.

With --bucket, copy into the bucket of blob_store.s3.

The command may run before the first start of the mirror, or while the mirror runs,
which counts the new content when the import has ended. Run it as the mirror's user.

The exit code is 0 if all content is in the store, and 1 if any was skipped or left
out, or if the command was interrupted.`

// importOptions are the flags of import.
type importOptions struct {
	from   string
	jobs   int
	dryRun bool
	quiet  bool
	bucket bool
}

func importCommand(paths *[]string) *cobra.Command {
	var opts importOptions
	cmd := &cobra.Command{
		Use:   "import --from-registry-dir PATH",
		Short: "Import the stored content of another registry",
		Long:  importLong,
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.from == "" {
				return errors.New("--from-registry-dir is missing. Set it to the data directory of the other registry")
			}
			if opts.jobs < 1 {
				return fmt.Errorf("--jobs is %d. It must be at least 1", opts.jobs)
			}
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			return opts.open(cmd.Context(), cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.from, "from-registry-dir", "", "`PATH` of the other registry's data directory")
	flags.IntVar(&opts.jobs, "jobs", 2, "copy `N` objects at once")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "copy nothing and print how much would be imported")
	flags.BoolVar(&opts.bucket, "bucket", false, "import into the bucket of blob_store.s3")
	flags.BoolVar(&opts.quiet, "quiet", false, "print only content that is skipped or left out")
	return cmd
}

// open lists the directory, opens the store, which it makes if the mirror has not been
// started yet, and imports into it.
func (o importOptions) open(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error {
	dir, err := maintain.ListRegistryDir(ctx, o.from)
	if errors.Is(err, maintain.ErrNoRegistry) {
		return failure{exitUsage, err}
	}
	fs := cfg.BlobStore.FS
	if err == nil {
		err = makeStore(fs.RootDir)
	}
	if err != nil {
		return failure{exitFailed, app.WithAdvice(err)}
	}
	if !o.bucket {
		return withStore(ctx, cfg, func(ctx context.Context, local *disk.Store) error {
			return o.run(ctx, dir, target{local, local.Spools(), int64(fs.MaxSize), "blob_store.fs"}, stdout, stderr)
		})
	}
	return withBucket(ctx, cfg, func(ctx context.Context, bucket *app.Bucket) error {
		return withStore(ctx, cfg, func(ctx context.Context, local *disk.Store) error {
			return o.run(ctx, dir, target{bucket, local.Spools(), int64(cfg.BlobStore.S3.MaxSize), "blob_store.s3"}, stdout, stderr)
		})
	})
}

// makeStore makes the directories of a store that are missing. It returns an error if
// another user than the mirror's would write there.
func makeStore(root string) error {
	store, err := disk.Open(root, disk.Options{Listed: true})
	if err != nil {
		return err
	}
	return store.Close()
}

// target is a store that content is imported into.
type target struct {
	store   storage.Store
	spools  *spool.Dir
	maxSize int64  // 0: no limit
	table   string // of the configuration
}

func (o importOptions) run(ctx context.Context, dir *maintain.RegistryDir, into target, stdout, stderr io.Writer) error {
	opts := maintain.ImportOptions{Spools: into.spools, Jobs: o.jobs, DryRun: o.dryRun}
	if into.maxSize > 0 {
		stored, err := count(ctx, into.store)
		if err != nil {
			return err
		}
		opts.Room = new(max(0, into.maxSize-stored.Bytes))
	}
	shown := newProgress(writerUnlessQuiet(o.quiet, stderr), "importing", dir.Total)
	opts.Progress = shown.advance
	report, err := dir.Import(ctx, into.store, opts)
	// The progress ends before the report is printed: a terminal shows both.
	shown.end(err == nil)
	imported := "imported"
	if o.dryRun {
		imported = "would import"
	}
	fmt.Fprintf(writerUnlessQuiet(o.quiet, stdout), "%s %s; already stored %s\n", imported, describe(report.Imported), describe(report.Present))
	return errors.Join(err, printLeft(stdout, report, into.table))
}

// printLeft prints what an import has skipped and left out. Its error says that there
// was any.
func printLeft(w io.Writer, report maintain.ImportReport, table string) error {
	const longest = 1000 // bytes of a line
	for _, skip := range report.Skips.First {
		fmt.Fprintln(w, printable.Line(fmt.Sprintf("skipped %s: %v", skip.Path, skip.Err), longest))
	}
	if more := report.Skips.Count - int64(len(report.Skips.First)); more > 0 {
		fmt.Fprintf(w, "skipped %d more\n", more)
	}
	var err error
	if n := report.Skips.Count; n > 0 {
		err = fmt.Errorf("skipped files and directories: %d", n)
	}
	if report.LeftOut.Objects > 0 {
		err = errors.Join(err, fmt.Errorf("there is no room for %s. Raise %s.max_size, free some disk space, or let the next pulls fetch them",
			describe(report.LeftOut), table))
	}
	return err
}
