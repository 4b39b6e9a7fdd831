//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
)

// checkServed prints the state of the certificate that the mirror of this machine serves,
// if it has TLS. Its error says that clients refuse the certificate.
func checkServed(ctx context.Context, cfg *config.Config, w io.Writer) error {
	if cfg.Server.TLS == nil {
		return nil
	}
	target := check.ServedTarget{URL: runningURL(cfg)}
	if acme := cfg.Server.TLS.ACME; acme != nil {
		target.ServerName = hostOf(acme)
	} else {
		path, _, chain, err := serverCertificate(cfg)
		switch {
		case errors.Is(err, errNotMade):
			fmt.Fprintf(w, "\nserver.tls:\n  note: %v\n", err)
			return nil
		case err != nil:
			return failure{exitFailed, err}
		}
		target.File, target.Configured, target.ServerName = path, chain, firstName(chain[0])
	}
	state, ok := check.CheckServed(ctx, target, time.Now())
	if !ok {
		fmt.Fprintln(w, "\nserver.tls:\n  note: no running mirror answers with a certificate")
		return nil
	}
	var b strings.Builder
	b.WriteString("\n")
	indented(&b, "", fmt.Sprintf("certificate of this mirror (server.tls), from %s:", state.From))
	indented(&b, "  ", "for "+strings.Join(state.Names, ", "))
	indented(&b, "  ", "until "+state.Expires.UTC().Format(time.DateOnly))
	for _, text := range state.Errors {
		indented(&b, "  ", "error: "+text)
	}
	for _, text := range state.Remarks {
		indented(&b, "  ", "note: "+text)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return failure{exitFailed, err}
	}
	if len(state.Errors) > 0 {
		return failure{exitFailed, errors.New("clients refuse the certificate of this mirror (server.tls)")}
	}
	return nil
}

// runningURL returns the URL of the mirror that runs on this machine, as it has left it
// or else as the configuration has it. It returns nil if neither does.
func runningURL(cfg *config.Config) *url.URL {
	if left, err := app.LeftURL(cfg.BlobStore.FS.RootDir); err == nil && left != "" {
		if u, err := url.Parse(left); err == nil && u.Scheme == "https" && u.Port() != "" {
			return u
		}
	}
	u, err := localURL(cfg)
	if err != nil {
		return nil
	}
	return u
}
