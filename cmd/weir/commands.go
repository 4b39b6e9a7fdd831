package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/buildinfo"
	"github.com/weirhq/weir/internal/hosts"
)

func rootCommand() *cobra.Command {
	var paths []string
	root := &cobra.Command{
		Use:     "weir",
		Version: versionLine(),
		Short:   "A pull-through mirror for OCI container registries",
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
		"configuration `FILE`; may be repeated, later files override earlier ones (default: the first of "+strings.Join(config.Places(), ", ")+"; else built-in)")
	root.SetVersionTemplate("{{.Version}}\n")
	addGroup(root, "Run a mirror:", serveCommand(&paths), checkCommand(&paths), healthcheckCommand(&paths))
	addGroup(root, "See and steer a running mirror:", lsCommand(&paths), inspectCommand(&paths), refreshCommand(&paths), rmCommand(&paths), statsCommand(&paths), warmCommand(&paths))
	addGroup(root, "Care for its store:", verifyCommand(&paths), gcCommand(&paths), importCommand(&paths))
	addGroup(root, "Set up clients and users:", clientConfigCommand(&paths), authCommand())
	root.AddCommand(versionCommand())
	return root
}

// addGroup adds commands below a title of the help.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, one := range commands {
		one.GroupID = title
	}
	root.AddCommand(commands...)
}

func serveCommand(paths *[]string) *cobra.Command {
	var opts overrides
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the mirror",
		Long: `Run the mirror until SIGINT or SIGTERM. Running requests and downloads then have
global.shutdown_drain_secs to end; the exit code is 0 when all of them did.
A change of a configuration file, or SIGHUP, takes effect without a restart.

Each setting that is no list is also a variable: WEIR_SERVER_PORT is server.port.
Variables win over files, and flags over both.`,
		Args: cobra.NoArgs,
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
	cmd.Flags().StringVar(&o.data, "data", "", "store content below `DIR` (blob_store.fs.root_dir)")
	cmd.Flags().StringVar(&o.level, "log-level", "", "log from `LEVEL` on: debug, info, warn or error (log.level)")
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
			return source, fmt.Errorf("--listen is %q: it must be an address with a port, such as 0.0.0.0:8000 or :8000", o.listen)
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

// localURL returns the URL of the mirror with a configuration, as it is reached from
// this machine. It returns an error if the configuration leaves the port open.
func localURL(cfg *config.Config) (*url.URL, error) {
	if cfg.Server.Port == 0 {
		return nil, errors.New("server.port is 0, so the port of the running mirror is not known here: configure a fixed one")
	}
	scheme := "http"
	if cfg.Server.TLS != nil {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(localHost(cfg.Server.BindAddress), strconv.Itoa(cfg.Server.Port))}, nil
}

// localHost returns the host at which a listener is reached from this machine. An address that
// stands for all of them names no place to connect to.
func localHost(bind string) string {
	if ip := net.ParseIP(bind); bind == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return bind
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
	fmt.Fprintln(w, versionLine())
}

func versionLine() string {
	version, revision := buildinfo.Version()
	return fmt.Sprintf("weir %s (%s, %s, %s/%s)", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// load reads and validates the configuration.
func load(paths []string) (*config.Config, error) { return loadSource(config.Source{Files: paths}) }

func loadSource(source config.Source) (*config.Config, error) {
	cfg, err := source.Load()
	if err == nil {
		err = cfg.Validate()
	}
	return cfg, unusable(err)
}

// loadAway is load for a command that does not touch the store: another user than the
// mirror's may run it, on another machine.
func loadAway(paths []string) (*config.Config, error) {
	cfg, err := config.Load(paths...)
	if err == nil {
		err = cfg.ValidateAway()
	}
	return cfg, unusable(err)
}

func unusable(err error) error {
	if err == nil {
		return nil
	}
	return failure{exitUsage, fmt.Errorf("the configuration cannot be used:\n%w", err)}
}
