package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/buildinfo"
)

func rootCommand() *cobra.Command {
	var paths []string
	root := &cobra.Command{
		Use:     "weir",
		Version: versionLine(),
		Short:   "A pull-through mirror for OCI container registries",
		Long: `Weir puts Docker Hub, ghcr.io, quay.io and private registries behind one host.
It serves cached content from its store, streams the rest while storing it,
and keeps serving when upstreams fail.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          commandMissing,
	}
	root.PersistentFlags().StringArrayVar(&paths, "config", nil,
		"configuration `FILE`; may be repeated, later files override earlier ones (default: the first of "+strings.Join(config.Places(), ", ")+"; if none exists, the built-in configuration)")
	root.SetVersionTemplate("{{.Version}}\n")
	addGroup(root, "Run a mirror:", serveCommand(&paths), checkCommand(&paths), healthcheckCommand(&paths))
	addGroup(root, "Look at and control a running mirror:", lsCommand(&paths), inspectCommand(&paths), pinCommand(&paths), refreshCommand(&paths), rmCommand(&paths), statsCommand(&paths), unpinCommand(&paths), warmCommand(&paths))
	addGroup(root, "Maintain the store:", verifyCommand(&paths), gcCommand(&paths), importCommand(&paths))
	addGroup(root, "Set up clients and users:", clientConfigCommand(&paths), authCommand())
	root.AddCommand(versionCommand(), manCommand())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.RunE = commandMissing // cobra prints the help and succeeds
	}
	return root
}

// commandMissing is the work of a command that is only the name of a group of others.
func commandMissing(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("the command is missing. Run %s --help for a list", cmd.CommandPath())
}

// helpCommand is cobra's, but for a command that does not exist it fails.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Print the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("there is no command %q. Run weir --help for a list", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// arguments is the check that a command has between least and most arguments. There is no
// upper limit if most is negative.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case most == 0 && n > 0:
			return fmt.Errorf("%s takes no arguments, but got %q. Its usage is: %s. Name configuration files with --config", cmd.CommandPath(), args[0], cmd.UseLine())
		case n < least || most >= 0 && n > most:
			return fmt.Errorf("%s does not accept %d arguments. Its usage is: %s", cmd.CommandPath(), n, cmd.UseLine())
		}
		return nil
	}
}

// addGroup adds commands below a title of the help, which is left out if all are hidden.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddCommand(commands...)
	if !slices.ContainsFunc(commands, func(one *cobra.Command) bool { return !one.Hidden }) {
		return
	}
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, one := range commands {
		one.GroupID = title
	}
}

// localURL returns the URL of the mirror with a configuration, as it is reached from
// this machine. It returns an error if the configuration leaves the port open.
func localURL(cfg *config.Config) (*url.URL, error) {
	if cfg.Server.Port == 0 {
		return nil, errors.New("server.port is 0, so the port of the running mirror is unknown. Set a fixed port")
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
		Args:  arguments(0, 0),
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
	return failure{exitUsage, fmt.Errorf("the configuration is invalid:\n%w", err)}
}
