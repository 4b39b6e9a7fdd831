package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
)

func rootCommand() *cobra.Command {
	var paths []string
	root := &cobra.Command{
		Use:   "weir",
		Short: "A pull-through mirror for OCI container registries",
		Long: `Weir puts Docker Hub, ghcr.io, quay.io and private registries under one host.
It serves cached content from its store, streams other content while storing it,
and continues to serve when upstreams fail.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("a command is missing: %s --help lists them", cmd.CommandPath())
		},
	}
	root.PersistentFlags().StringArrayVar(&paths, "config", nil,
		"configuration `FILE`; may be repeated, later files override earlier ones (default: ./config.toml, then /etc/weir/config.toml, then built-in)")
	root.AddCommand(serveCommand(&paths), checkCommand(&paths), healthcheckCommand(&paths), versionCommand())
	root.AddCommand(warmCommand(&paths), verifyCommand(&paths), gcCommand(&paths))
	root.AddCommand(clientConfigCommand(&paths))
	return root
}

func serveCommand(paths *[]string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the mirror",
		Long: `Run the mirror until SIGINT or SIGTERM. Running requests and downloads then have
global.shutdown_drain_secs to end; the exit code is 0 when all of them did.
A change of a configuration file, or SIGHUP, takes effect without a restart.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			if err := app.Run(cmd.Context(), *paths, cfg, cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
}

func healthcheckCommand(paths *[]string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running mirror on this machine whether it is alive",
		Long: `Ask the mirror that runs on this machine with the same configuration whether it
is alive. The exit code is 0 if it is, else 1. This is for containers, which
have no shell.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(*paths)
			if err != nil {
				return err
			}
			if err := askHealth(cmd, cfg); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
}

// localURL returns the URL of the mirror with a configuration, as it is reached from
// this machine. It returns an error if the configuration leaves the port open.
func localURL(cfg *config.Config) (*url.URL, error) {
	if cfg.Server.Port == 0 {
		return nil, errors.New("server.port is 0, so the port of the running mirror is not known here: configure a fixed one")
	}
	host := cfg.Server.BindAddress
	// A server on all addresses is also reached by the name of this machine.
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(cfg.Server.Port))}, nil
}

func askHealth(cmd *cobra.Command, cfg *config.Config) error {
	mirror, err := localURL(cfg)
	if err != nil {
		return err
	}
	url := mirror.JoinPath("healthz").String()
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Container runtimes count a slow answer as none, so a short limit gives
	// a better message. The process ends after one request.
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no mirror answers: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "healthy")
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { printVersion(cmd.OutOrStdout()) },
	}
}

func printVersion(w io.Writer) {
	version, revision := app.Version()
	fmt.Fprintf(w, "weir %s (%s, %s, %s/%s)\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// load reads and validates the configuration.
func load(paths []string) (*config.Config, error) {
	cfg, err := config.Load(paths...)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return nil, failure{exitUsage, fmt.Errorf("the configuration cannot be used:\n%w", err)}
	}
	return cfg, nil
}
