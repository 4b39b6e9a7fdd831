package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// maxProbes is how many upstreams are probed at once.
const maxProbes = 8

// onlineOptions are the flags of check --online.
type onlineOptions struct {
	images  []string
	output  string
	timeout time.Duration
}

func checkCommand(paths *[]string) *cobra.Command {
	var online bool
	var opts onlineOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Validate the configuration and print it with all defaults",
		Long: `Validate the configuration and print what is in force as TOML: every default
filled in, secrets redacted. All problems are reported at once on standard
error, with exit code 2.

With --online it prints instead how each upstream is doing: it is contacted with
its credentials and asked for the headers of a manifest and the first byte of a
blob. These are of the image that --image names, or of one that the mirror has
cached, or of a well-known public one. Where there is none of these, and where a
registry counts reads of manifests against a rate limit and no --image says that
it may cost two of them, "?" stands for what was not tried. A namespace that is
offline is not contacted.

The exit code is 1 if an upstream cannot be reached, refuses the credentials, or
allows no more requests. No HEAD, no ranges, a wrong clock and a certificate that
is about to expire are remarks.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.validate(cmd, online); err != nil {
				return err
			}
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
			}
			if online {
				return checkOnline(cmd.Context(), cfg, opts, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			if err := cfg.WriteTOML(cmd.OutOrStdout()); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&online, "online", false, "contact each upstream, and print how it is doing")
	flags.StringArrayVar(&opts.images, "image", nil, "ask the upstreams of its repository for image `NAME`, as clients name it; may be repeated (with --online)")
	flags.StringVar(&opts.output, "output", "table", "print a `FORM`: table or json (with --online)")
	flags.DurationVar(&opts.timeout, "timeout", 30*time.Second, "give up after `DURATION` (with --online)")
	return cmd
}

func (o onlineOptions) validate(cmd *cobra.Command, online bool) error {
	for _, name := range []string{"image", "output", "timeout"} {
		if !online && cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is for check --online", name)
		}
	}
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("--output is %s: it can be table or json", strconv.Quote(o.output))
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout is %s: it must be more than nothing", o.timeout)
	}
	return nil
}

// checkOnline probes all upstreams of a configuration and prints what it found.
func checkOnline(ctx context.Context, cfg *config.Config, opts onlineOptions, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	open, err := app.OpenUpstreams(cfg)
	if err != nil {
		return failure{exitFailed, err}
	}
	defer open.Close()
	checks, err := checks(ctx, cfg, open, opts.images, stderr)
	if err != nil {
		return err
	}
	probing, cancel := context.WithTimeoutCause(ctx, opts.timeout, fmt.Errorf("it was not done within %s (--timeout)", opts.timeout))
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxProbes)
	for _, c := range checks {
		group.Go(func() error {
			c.probe(probing)
			return nil
		})
	}
	_ = group.Wait() // a probe's failure is part of its report
	if ctx.Err() != nil {
		return failure{exitFailed, errors.New("interrupted before it was done")}
	}
	return report(checks, opts.output, stdout)
}

// report prints what was found. Its error says how many have failed.
func report(checks []*check, output string, w io.Writer) error {
	results := make([]result, len(checks))
	failed := 0
	for i, c := range checks {
		results[i] = c.result(time.Now())
		if results[i].Status == statusFailed {
			failed++
		}
	}
	write := writeTable
	if output == "json" {
		write = writeJSON
	}
	if err := write(w, results); err != nil {
		return failure{exitFailed, err}
	}
	if failed > 0 {
		return failure{exitFailed, fmt.Errorf("upstreams that failed: %d of %d", failed, len(results))}
	}
	return nil
}

// check is one upstream with one set of credentials, and the keys of all places
// in the configuration that name it.
type check struct {
	keys        []string
	host        string
	credentials bool
	certificate bool
	offline     bool
	client      *upstream.Client
	image       image
	report      upstream.Report
}

func (c *check) probe(ctx context.Context) {
	if !c.offline {
		// An empty reference is no error: then only the API's root is asked.
		reference, _ := oci.ParseReference(c.image.reference)
		c.report = c.client.Probe(ctx, upstream.ProbeOptions{
			Repository: c.image.repository, Reference: reference, Blob: c.image.blob, Spend: c.image.origin == named,
		})
	}
}

// checks makes the checks of a configuration, in its order. The images are those
// of the command line.
func checks(ctx context.Context, cfg *config.Config, open *app.Upstreams, images []string, stderr io.Writer) ([]*check, error) {
	try, err := namedImages(open.Specs, images)
	if err != nil {
		return nil, err
	}
	if err := addCached(ctx, cfg, try); err != nil {
		fmt.Fprintln(stderr, "warning: cannot look up what is cached, to ask upstreams for that:", err)
	}
	type place struct {
		client  *upstream.Client
		offline bool
	}
	var checks []*check
	known := make(map[place]*check)
	for n, repo := range cfg.Namespaces {
		for i, u := range repo.Upstreams {
			client := open.Clients[n][i]
			c := known[place{client, repo.Offline}]
			if c == nil {
				c = &check{
					host: client.Host(), client: client, offline: repo.Offline,
					credentials: u.Username != "", certificate: u.ClientCertificate != "",
				}
				known[place{client, repo.Offline}] = c
				checks = append(checks, c)
			}
			c.keys = append(c.keys, fmt.Sprintf("repository.%q.upstream[%d]", repo.Key, i))
			c.image = better(c.image, try[repo.Key], wellKnown(u))
		}
	}
	return checks, nil
}
