//go:build linux

package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/hosts"
)

func serveCommand(paths *[]string) *cobra.Command {
	var opts overrides
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the mirror",
		Long: `Run the mirror until SIGINT or SIGTERM. Running requests and downloads then have
global.shutdown_drain_secs to finish; the exit code is 0 if all of them did.
A change to a configuration file takes effect without a restart. SIGHUP reloads the files too.

Every setting that is not a list can be set by an environment variable:
WEIR_SERVER_PORT sets server.port. Variables override files, and flags override both.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := opts.source(*paths)
			if err != nil {
				return err
			}
			cfg, err := loadSource(source)
			if err != nil {
				return err
			}
			if err := app.Run(cmd.Context(), source, cfg, cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
	opts.flags(cmd)
	return cmd
}

// overrides are the flags that replace values of the configuration.
type overrides struct{ listen, data, level string }

func (o *overrides) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.listen, "listen", "", "listen on `ADDR`, such as 0.0.0.0:8000 or :8000 for every interface (server.bind_address, server.port)")
	cmd.Flags().StringVar(&o.data, "data", "", "store content in `DIR` (blob_store.fs.root_dir)")
	cmd.Flags().StringVar(&o.level, "log-level", "", "log messages of `LEVEL` and above: debug, info, warn or error (log.level)")
}

// source returns the source of the configuration with these flags.
func (o *overrides) source(files []string) (config.Source, error) {
	source := config.Source{Files: files}
	add := func(flag, value string, key ...string) {
		source.Overrides = append(source.Overrides, config.Override{Key: key, Value: value, Origin: flag})
	}
	if o.listen != "" {
		host, port, err := net.SplitHostPort(o.listen)
		if err != nil || !hosts.ValidPort(port) && port != "0" {
			return source, fmt.Errorf("--listen is %q. It must be an address with a port, such as 0.0.0.0:8000 or :8000", o.listen)
		}
		add("--listen", host, "server", "bind_address")
		add("--listen", port, "server", "port")
	}
	if o.data != "" {
		add("--data", o.data, "blob_store", "fs", "root_dir")
	}
	if o.level != "" {
		add("--log-level", o.level, "log", "level")
	}
	return source, nil
}

// leftURL returns the URL that the mirror of a data directory has left, "" if there is none.
func leftURL(root string) (string, error) { return app.LeftURL(root) }
