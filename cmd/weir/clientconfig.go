package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/hosts"
)

const clientConfigHelp = `Print the files that make a client pull through this mirror, for every repository
block of the configuration. A single file is printed on standard output, and its path
on standard error. Each of several files begins with its path, in a comment that is
not part of the file. Standard error explains how to install the files and which
pulls of the client cannot go through the mirror.

  docker          Docker Engine
  containerd      containerd
  nerdctl         nerdctl, also rootless
  kubernetes      the kubelet's containerd
  podman, buildah, skopeo
                  Podman, Buildah and Skopeo
  crio            CRI-O
  buildkit        buildkitd, and builders of docker buildx
  k3s, rke2       K3s and RKE2
  crane, regctl, oras, helm, cosign
                  no files: standard error explains how to name the mirror

If the mirror has TLS, the files include the authority of its certificate, unless the
authority is public: that of the configured certificate, or the one given with --ca.
With --client-cert and --client-key, the files include a client certificate.

With --dir, write the files below a directory instead and print their paths. --dir /
configures this machine. If a file exists with other content, nothing is written,
with exit code 1.

With --username, the files contain the login of that user at the mirror. The password
comes from WEIR_CLIENT_PASSWORD, from a prompt, or from standard input. Files with a
password are only written with --dir, readable by their owner alone.`

func clientConfigCommand(paths *[]string) *cobra.Command {
	var url, dir, user string
	var flags mirrorFlags
	cmd := &cobra.Command{
		Use:   "client-config CLIENT",
		Short: "Print the files that make a client pull through the mirror",
		Long:  clientConfigHelp,
		Example: "  weir client-config docker --url http://mirror.example.com:8000 > daemon.json\n" +
			"  weir client-config containerd --url https://mirror.example.com --dir /",
		ValidArgs: clientconfig.Clients(),
		Args: func(cmd *cobra.Command, args []string) error {
			// cobra's own message does not list the clients.
			if len(args) != 1 {
				return fmt.Errorf("%s needs exactly one client (%s), not %d", cmd.CommandPath(), strings.Join(clientconfig.Clients(), ", "), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadAway(*paths)
			if err != nil {
				return err
			}
			login, err := clientLogin(user, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			made, err := clientConfig(args[0], cfg, url, flags, login)
			if err != nil {
				return err
			}
			return deliver(made, dir, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "`URL` at which clients reach the mirror (default: from server.bind_address and server.port)")
	cmd.Flags().StringVar(&flags.ca, "ca", "", "`FILE` with the authority of the mirror's certificate (default: from server.tls)")
	cmd.Flags().StringVar(&flags.certificate, "client-cert", "", "`FILE` with the client certificate")
	cmd.Flags().StringVar(&flags.key, "client-key", "", "`FILE` with the key of --client-cert")
	cmd.Flags().StringVar(&user, "username", "", "log clients in to the mirror as `USER`")
	cmd.Flags().StringVar(&dir, "dir", "", "write the files below `DIR`")
	return cmd
}

// clientPassword is the variable of the environment with the password of --username. An
// argument would be in the list of processes.
const clientPassword = "WEIR_CLIENT_PASSWORD"

// clientLogin returns the login of a user, or nil without one.
func clientLogin(user string, in io.Reader, prompt io.Writer) (*clientconfig.Login, error) {
	if user == "" {
		return nil, nil //nolint:nilnil // no login is an answer
	}
	if !access.ValidUser(user) {
		return nil, errors.New("--username must not contain a colon or a control character")
	}
	password := os.Getenv(clientPassword)
	if password == "" {
		var err error
		if password, err = readPassword(in, prompt, false); err != nil {
			return nil, fmt.Errorf("%w. Set %s, or write the password to standard input", err, clientPassword)
		}
	}
	return &clientconfig.Login{User: user, Password: password}, nil
}

// deliver prints the files of a client, or writes them below a directory unless dir is
// empty, and reports them.
func deliver(made clientconfig.Config, dir string, stdout, stderr io.Writer) error {
	for _, warning := range made.Warnings {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	if dir == "" {
		printFiles(made.Files, stdout, stderr)
	} else if err := writeFiles(dir, made.Files, stdout); err != nil {
		return failure{exitFailed, err}
	}
	for _, hint := range made.Hints {
		fmt.Fprintln(stderr, "hint:", hint)
	}
	return nil
}

// clientConfig returns the files of a client for a configuration. An empty url
// means the address that the server listens on.
func clientConfig(client string, cfg *config.Config, url string, flags mirrorFlags, login *clientconfig.Login) (clientconfig.Config, error) {
	var warnings []string
	if url == "" {
		s := cfg.Server
		// An address that stands for all, and a port that the system chooses,
		// name no place for clients to connect to.
		if s.Port == 0 || hosts.Unspecified(s.BindAddress) {
			return clientconfig.Config{}, fmt.Errorf("--url is missing, and server.bind_address %q and server.port %d do not say how clients reach the mirror. "+
				"Name its address, as in --url http://mirror.example.com:8000", s.BindAddress, s.Port)
		}
		url = "http://" + s.Address()
		if s.TLS != nil {
			url = "https://" + s.Address()
		}
		// The files are right for clients on this machine, so this is a warning.
		if hosts.Loopback(s.BindAddress) {
			warnings = append(warnings, "clients can reach "+url+" only from this machine. Use --url to name an address for other machines")
		}
	}
	m, err := clientconfig.ParseMirror(url)
	if err != nil {
		return clientconfig.Config{}, fmt.Errorf("--url %w", err)
	}
	trust, err := flags.addTo(&m, cfg)
	if err != nil {
		return clientconfig.Config{}, err
	}
	warnings = append(warnings, trust...)
	m.Login = login
	namespaces := make([]clientconfig.Namespace, len(cfg.Namespaces))
	for i, r := range cfg.Namespaces {
		namespaces[i] = clientconfig.NewNamespace(r.Key, r.Host, r.Default)
	}
	made, err := clientconfig.For(client, m, namespaces)
	made.Warnings = append(warnings, made.Warnings...)
	return made, err
}

// printFiles prints files on stdout, and on stderr the facts about them that no file
// holds.
func printFiles(files []clientconfig.File, stdout, stderr io.Writer) {
	fmt.Fprint(stdout, clientconfig.Print(files))
	switch len(files) {
	case 0:
	case 1:
		fmt.Fprintln(stderr, "file:", files[0].Path)
	default:
		fmt.Fprintf(stderr, "hint: to write these %d files below a directory, use --dir DIR; to install them on this machine, --dir /\n", len(files))
	}
}

// writeFiles writes files below a directory and prints the paths of those that
// were missing. It replaces nothing: if a file exists with other content, it writes
// no file and returns an error that names it.
func writeFiles(dir string, files []clientconfig.File, stdout io.Writer) error {
	var missing []clientconfig.File
	var differ []string
	for _, f := range files {
		f.Path = filepath.Join(dir, f.Path)
		switch there, err := os.ReadFile(f.Path); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, f)
		// A file that cannot be read may hold settings that must not be lost.
		case err != nil:
			return err
		case !bytes.Equal(there, []byte(f.Content)):
			differ = append(differ, f.Path)
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("nothing was written, because these files exist with other content. Move them away, or merge the output without --dir into them:\n  %s",
			strings.Join(differ, "\n  "))
	}
	// Nothing is written before all files have been compared: half a
	// configuration is worse than none.
	for _, f := range missing {
		if err := writeNew(f); err != nil {
			return err
		}
		fmt.Fprintln(stdout, f.Path)
	}
	return nil
}

// writeNew writes a file that is not there yet. Every user may read it unless it is a
// secret.
func writeNew(file clientconfig.File) error {
	if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
		return err
	}
	rights := fs.FileMode(0o644)
	if file.Secret {
		rights = 0o600
	}
	// O_EXCL: a file that came into being since the comparison stays as it is.
	f, err := os.OpenFile(file.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, rights)
	if err != nil {
		return err
	}
	_, err = f.WriteString(file.Content)
	return errors.Join(err, f.Close())
}
