package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/api/client"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/buildinfo"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm/remote"
)

// besideMirror is a part of the help of each command that asks the API of a running mirror.
const besideMirror = `
The mirror is the one that runs on this machine with the same configuration, or the
one at --url.`

// apiFlags are the flags of a command that asks the API of a running mirror.
type apiFlags struct {
	mirror string
	client mirrorFlags
	user   string
}

func (f *apiFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.mirror, "url", "", "`URL` of the mirror, such as http://mirror.internal:8000; with server.admin_address, that address")
	f.client.flags(cmd)
	cmd.Flags().StringVar(&f.user, "username", "", "log in to the mirror as `USER`, with the password in "+clientPassword+" or from a prompt")
}

// mirror is a running mirror that a command asks.
type mirror struct {
	*client.Client
	url     *url.URL
	isNamed bool   // by --url, and not by the configuration
	user    string // "" without a login
}

// connect returns the mirror that the flags and the configuration name. Nothing is asked yet.
func (f apiFlags) connect(configs []string, stdin io.Reader) (*mirror, error) {
	address, settings, err := f.find(configs)
	if err != nil {
		return nil, err
	}
	login, err := clientLogin(f.user, stdin, os.Stderr)
	if err != nil {
		return nil, err
	}
	return newMirror(address, settings, login, f.mirror != ""), nil
}

func newMirror(address *url.URL, settings *tls.Config, login *clientconfig.Login, isNamed bool) *mirror {
	version, _ := buildinfo.Version()
	m := &mirror{url: address, isNamed: isNamed}
	var credentials *url.Userinfo
	if login != nil {
		m.user, credentials = login.User, url.UserPassword(login.User, login.Password)
	}
	m.Client = client.New(address, credentials, settings, "weir-command/"+version)
	return m
}

// find returns the URL of the API, and how to speak TLS to it.
func (f apiFlags) find(configs []string) (*url.URL, *tls.Config, error) {
	if f.mirror != "" {
		return parseMirror(f.mirror, f.client)
	}
	cfg, err := loadAway(configs)
	if err != nil {
		return nil, nil, err
	}
	address, err := apiURL(cfg)
	if err != nil {
		// The configuration is valid, so this is not wrong usage.
		return nil, nil, failure{exitFailed, fmt.Errorf("%w, or name the mirror with --url", err)}
	}
	settings, err := f.client.settings(cfg)
	return address, settings, err
}

// apiURL returns the URL at which the mirror with a configuration serves its API, as it is reached
// from this machine.
func apiURL(cfg *config.Config) (*url.URL, error) {
	if cfg.Server.AdminAddress == "" {
		// A mirror has left the port that the system has chosen.
		if left, err := leftURL(cfg.BlobStore.FS.RootDir); cfg.Server.Port == 0 && err == nil && left != "" {
			return url.Parse(left)
		}
		return localURL(cfg)
	}
	host, port, err := net.SplitHostPort(cfg.Server.AdminAddress)
	if err != nil {
		return nil, fmt.Errorf("server.admin_address: %w", err)
	}
	if port == "0" {
		return nil, errors.New("the port in server.admin_address is 0, so the port of the running mirror is unknown. Set a fixed port")
	}
	scheme := "http"
	if cfg.Server.TLS != nil {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(localHost(host), port)}, nil
}

// run does the work of a command with the mirror, until it is done or a signal ends the context.
func (m *mirror) run(ctx context.Context, work func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer m.Close()
	err := work(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	return failure{exitFailed, m.explain(err)}
}

// explain adds to an error of the API what to do about it.
func (m *mirror) explain(err error) error {
	err = phrase{err}
	status := statusOf(err)
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isNetwork := errors.AsType[net.Error](err)
	switch {
	case status == http.StatusUnauthorized && m.user == "":
		return fmt.Errorf("%w. Log in with --username", err)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%w. Check the user %s and the password in %s", err, m.user, clientPassword)
	// Servers of TLS tell clients without it so.
	case status == http.StatusBadRequest && m.url.Scheme == "http":
		return fmt.Errorf("%s: %w. If the mirror speaks TLS, name it with an https:// URL", m.url, err)
	case status != 0:
		return err
	case errors.Is(err, client.ErrNoAPI):
		return fmt.Errorf("%s: %w. Name the mirror with --url; with server.admin_address, its API is at that address", m.url, err)
	case isUnknown:
		return fmt.Errorf("%s: %w. Name the authority of its certificate with --ca", m.url, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s does not speak TLS: %w. Name the mirror with an http:// URL", m.url, err)
	case errors.Is(err, syscall.ECONNREFUSED) && m.isNamed:
		return fmt.Errorf("no mirror answers at %s: %w. Check --url, and that the mirror runs", m.url, err)
	case isNetwork && !m.isNamed:
		return fmt.Errorf("no mirror answers at %s, the configured or default address: %w. Start it, or name another one with --url", m.url, err)
	case isNetwork:
		return fmt.Errorf("no mirror answers at %s: %w. Check --url and the network", m.url, err)
	}
	return err
}

// statusOf returns the status of HTTP if an error is the answer of a mirror, and else 0.
func statusOf(err error) int {
	if refused, ok := errors.AsType[*client.RefusalError](err); ok {
		return refused.Status
	}
	refused, _ := errors.AsType[remote.RefusalError](err)
	return refused.Status
}

// maxPhrase bounds the text of an error of the API, in bytes.
const maxPhrase = 4096

// phrase is an error that a sentence goes on after. Errors of Windows end with a period, and those
// of TLS have names as a stranger's certificate gives them.
type phrase struct{ error }

func (p phrase) Error() string {
	return printable.Line(strings.TrimSuffix(p.error.Error(), "."), maxPhrase)
}

func (p phrase) Unwrap() error { return p.error }

// image reads an image as it is pulled from the mirror. The mirror's address may stand before
// its name.
func (m *mirror) image(text string) (oci.Image, error) {
	return oci.ParseImage(withoutHost(text, m.url.Host))
}

// withoutHost returns an image without the address of its mirror: the mirror itself knows the name
// without that.
func withoutHost(image, mirror string) string {
	if host, rest, ok := strings.Cut(image, "/"); ok && sameHost(host, mirror) {
		return rest
	}
	return image
}
