//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
)

// onlineOptions are the flags of check --online.
type onlineOptions struct {
	images  []string
	output  string
	timeout time.Duration
}

const checkHelp = `Validate the configuration and print the settings in force as TOML, with every
default filled in and secrets redacted, followed by the origin of each value. FILE is
the same as --config FILE. All problems are reported at once on standard error, with
exit code 2.

With --online, print the state of each upstream instead. Weir contacts the upstream
with its credentials and requests the headers of a manifest and the first byte of a
blob. They belong to the image given with --image, otherwise to an image that the
mirror has cached, otherwise to a well-known public image. A "?" marks a feature that was not
tried, because there is no such image, or because the registry counts reads of
manifests against a rate limit and no --image permits two of them. Blocks with
offline = true are not contacted.

With a bucket (blob_store.s3), --online also writes, reads, lists, presigns and
deletes an object below the prefix, looks at the rules for incomplete uploads, and
compares the clocks. In a cluster, it asks each running replica for its name. With
TLS, it checks the certificate that the mirror on this machine serves to clients.

The exit code is 1 if an upstream cannot be reached, refuses the credentials or
allows no more requests, if the bucket fails, if a replica cannot be reached, or if
clients refuse the mirror's own certificate. A missing HEAD, missing ranges, a wrong
clock and a certificate that expires soon are reported as notes.`

func checkCommand(paths *[]string) *cobra.Command {
	var online bool
	var opts onlineOptions
	var flags overrides
	cmd := &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Validate the configuration and print it with all defaults",
		Long:  checkHelp,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.validate(cmd, online); err != nil {
				return err
			}
			source, err := flags.source(append(slices.Clone(*paths), args...))
			if err != nil {
				return err
			}
			cfg, err := loadSource(source)
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
			}
			if online {
				// JSON is about upstreams alone, so that scripts keep reading it.
				out := cmd.OutOrStdout()
				if opts.output == "json" {
					out = cmd.ErrOrStderr()
				}
				err := checkOnline(cmd.Context(), cfg, opts, cmd.OutOrStdout(), cmd.ErrOrStderr())
				err = errors.Join(err, checkBucket(cmd.Context(), cfg, opts.timeout, out))
				err = errors.Join(err, checkReplicas(cmd.Context(), cfg, opts.timeout, out))
				return errors.Join(err, checkServed(cmd.Context(), cfg, out))
			}
			if err := cfg.WriteTOML(cmd.OutOrStdout()); err != nil {
				return failure{exitFailed, err}
			}
			// A comment, so that all of the output is a configuration.
			fmt.Fprintf(cmd.OutOrStdout(), "\n# ok: the configuration is valid (%s)\n", cfg.Sources())
			return nil
		},
	}
	flags.flags(cmd)
	cmd.Flags().BoolVar(&online, "online", false, "contact each upstream and print its state")
	cmd.Flags().StringArrayVar(&opts.images, "image", nil, "ask the upstreams for the image `NAME`, as clients name it; may be repeated (with --online)")
	cmd.Flags().StringVar(&opts.output, "output", "table", "output `FORMAT`: table or json (with --online)")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 30*time.Second, "give up after `DURATION` (with --online)")
	return cmd
}

func (o onlineOptions) validate(cmd *cobra.Command, online bool) error {
	// A flag without its effect is refused: without --online
	// the output would be taken for that of a probe.
	for _, name := range []string{"image", "output", "timeout"} {
		if !online && cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s needs --online", name)
		}
	}
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("--output is %s. It must be table or json", strconv.Quote(o.output))
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout is %s. It must be greater than 0", o.timeout)
	}
	return nil
}

// checkOnline probes all upstreams of a configuration and prints their state.
func checkOnline(ctx context.Context, cfg *config.Config, opts onlineOptions, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	open, err := app.OpenUpstreams(cfg)
	if err != nil {
		return failure{exitFailed, err}
	}
	defer open.Close()
	images, err := namedImages(open.Specs, opts.images)
	if err != nil {
		return err
	}
	// Without the cache there are well-known images, so the check goes on.
	if err := addCached(ctx, cfg, images); err != nil {
		fmt.Fprintln(stderr, "warning: cannot look for cached images to try the upstreams with:", err)
	}
	probing, cancel := context.WithTimeoutCause(ctx, opts.timeout, fmt.Errorf("it did not finish within %s (--timeout)", opts.timeout))
	defer cancel()
	results := check.Run(probing, open.Targets(cfg), images, check.Advice{Failure: app.ExplainUpstream, MoreRequests: app.MoreRequests})
	// Only the outer context is asked: after --timeout the report is still
	// worth reading, and after a signal it is not wanted.
	if ctx.Err() != nil {
		return failure{exitFailed, errors.New("interrupted")}
	}
	return report(results, opts.output, stdout)
}

// report prints results. Its error says how many upstreams have failed.
func report(results []check.Result, output string, w io.Writer) error {
	write := writeTable
	if output == "json" {
		write = writeJSON
	}
	// The report is printed before the failures are counted: it says why the
	// command fails.
	if err := write(w, results); err != nil {
		return failure{exitFailed, err}
	}
	failed := 0
	for _, r := range results {
		if r.Status == check.StatusFailed {
			failed++
		}
	}
	if failed > 0 {
		return failure{exitFailed, fmt.Errorf("upstreams that failed: %d of %d", failed, len(results))}
	}
	return nil
}

// namedImages returns the images of the command line.
func namedImages(specs []namespace.Spec, texts []string) (*check.Images, error) {
	images, err := check.NewImages(specs)
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		image, err := oci.ParseImage(text)
		if err != nil {
			return nil, fmt.Errorf("--image: %w", err)
		}
		if err := images.Add(image); err != nil {
			return nil, fmt.Errorf("--image %s: %w", text, err)
		}
	}
	return images, nil
}

// addCached adds images that the mirror has cached. The mirror may be running.
func addCached(ctx context.Context, cfg *config.Config, images *check.Images) error {
	store, err := disk.Open(cfg.BlobStore.FS.RootDir, disk.Options{Existing: true})
	if errors.Is(err, disk.ErrNoStore) {
		return nil // the mirror has never run, so nothing is cached
	}
	if err != nil {
		return app.WithAdvice(err)
	}
	defer store.Close()
	return app.WithAdvice(images.AddCached(ctx, catalog.New(store.Records(), catalog.Options{})))
}
