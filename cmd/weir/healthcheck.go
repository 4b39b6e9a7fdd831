//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
)

func healthcheckCommand(paths *[]string) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Check that the mirror on this machine is alive",
		Long: `Check that the mirror on this machine is alive. The exit code is 0 if it is,
otherwise 1. The command is intended for containers without a shell.

A mirror writes its address into its data directory. If there is no address, the
command uses the one in the configuration. A mistake in a configuration file does
not matter, since a running mirror keeps the last valid configuration.

The command needs no client certificate and does not verify the mirror's certificate.
With --ready, it checks whether the mirror can do its work, as /readyz reports.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := askHealth(cmd.Context(), config.Source{Files: *paths}.Salvage(), ready); err != nil {
				return failure{exitFailed, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "healthy")
			return nil
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "check that the mirror is ready, not only alive")
	return cmd
}

// imageData is the data directory of the container image. It is looked into as well,
// for a configuration file that is gone or cannot be read.
const imageData = "/var/lib/weir"

// askHealth returns nil if a mirror answers at one of the addresses that it may have.
func askHealth(ctx context.Context, cfg *config.Config, ready bool) error {
	var asked []string
	var failed []error
	ask := func(root string) bool {
		asked = append(asked, root)
		err := askHealthAt(ctx, root, ready)
		if err != nil {
			failed = append(failed, err)
		}
		return err == nil
	}
	for _, dir := range []string{cfg.BlobStore.FS.RootDir, imageData} {
		left, err := app.LeftURL(dir)
		switch {
		case err != nil && dir == cfg.BlobStore.FS.RootDir:
			failed = append(failed, err)
		case left != "" && ask(left):
			return nil
		}
	}
	configured, err := localURL(cfg)
	switch {
	case err == nil && ask(configured.String()):
		return nil
	case err != nil && len(asked) == 0:
		failed = append(failed, fmt.Errorf("there is no address of a mirror in %s, and %w", cfg.BlobStore.FS.RootDir, err))
	}
	if i := slices.IndexFunc(failed, func(err error) bool { return errors.As(err, new(notReadyError)) }); i >= 0 {
		return failed[i]
	}
	return fmt.Errorf("no mirror answers: %w", errors.Join(failed...))
}

// notReadyError is what a mirror that answers says of why it is not ready.
type notReadyError string

func (e notReadyError) Error() string { return "the mirror is " + string(e) }

// askHealthAt returns an error unless a mirror at a URL answers that it is alive, or
// ready.
func askHealthAt(ctx context.Context, root string, ready bool) error {
	// Shorter than the timeout of the image's HEALTHCHECK, even if two addresses do
	// not answer.
	const limit = 2500 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", units.Duration(limit)))
	defer cancel()
	path, limitOfBody, want := "/healthz", len(app.Alive)+1, app.Alive
	if ready {
		path, limitOfBody, want = "/readyz", len(app.Ready), app.Ready
	}
	url := root + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{
		Transport: &http.Transport{DialContext: dialLocal, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: probeTLS()},
		// A mirror answers by itself. A redirect comes from another program.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if ready && resp.StatusCode == http.StatusServiceUnavailable {
		if body, err := io.ReadAll(io.LimitReader(resp.Body, maxPhrase)); err == nil && strings.HasPrefix(string(body), app.NotReady) {
			return notReadyError(printable.Line(strings.TrimSpace(string(body)), maxPhrase))
		}
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	// The port that a mirror has left may belong to another program by now.
	if body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limitOfBody))); err != nil || string(body) != want {
		return fmt.Errorf("%s is answered by another program, not a mirror", url)
	}
	return nil
}

// dialLocal connects to an address. No DNS server is asked for localhost (RFC 6761, section
// 6.3), which would be if there is no /etc/hosts, as in the smallest systems.
func dialLocal(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "localhost" {
		return dialer.DialContext(ctx, network, address)
	}
	conn, err := dialer.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := dialer.DialContext(ctx, network, net.JoinHostPort("::1", port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}

// probeTLS returns the settings of a client that asks only whether a mirror is alive. No
// secret is sent, and the answer is "ok", so no certificate is verified: that of the mirror
// is for other names than this machine's address, may have expired, or is yet to come.
func probeTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{door.Probe}, InsecureSkipVerify: true} //nolint:gosec // see above
}
