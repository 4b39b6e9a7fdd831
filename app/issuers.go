package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
)

// issuers are the issuers of tokens in force. One that is equal in two configurations is
// the same in both, so that a reload does not need its keys again, and its tokens stay
// valid while it is unavailable.
type issuers struct {
	logger  *slog.Logger
	current []issuer
}

type issuer struct {
	of    config.OIDC
	files tlsFiles
	*access.Issuer
}

// next returns the issuers of a configuration.
func (s *issuers) next(cfg *config.Config) ([]issuer, error) {
	var all []issuer
	for _, of := range cfg.Auth.OIDC {
		files, err := readTLSFiles(of.ClientCertificateBundle, of.ClientPrivateKey, of.ServerCABundle)
		if err != nil {
			return nil, fmt.Errorf("auth.oidc.%q: %w", of.Key, err)
		}
		one := issuer{of: of, files: files}
		for _, before := range s.current {
			if reflect.DeepEqual(before.of, of) && before.files.sum() == files.sum() {
				one = before
			}
		}
		if one.Issuer == nil {
			if one.Issuer, err = s.newIssuer(of, files); err != nil {
				return nil, fmt.Errorf("auth.oidc.%q: %w", of.Key, err)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

func (s *issuers) newIssuer(of config.OIDC, files tlsFiles) (*access.Issuer, error) {
	client, err := issuerClient(files)
	if err != nil {
		return nil, err
	}
	opts := access.IssuerOptions{
		Name: of.Key, URL: of.Issuer, KeysURL: of.JWKSURI, Audience: of.RequiredAudience, Claims: of.RequiredClaims,
		Skew: of.ClockSkewTolerance, Algorithms: of.AllowedAlgorithms, Refresh: of.JWKSRefreshInterval,
		Timeout: of.HTTPRequestTimeout, RotationTimeout: of.JWKSRefreshTimeout, Client: client, Logger: s.logger,
	}
	if path := of.BearerTokenFile; path != "" {
		// Read each time, since Kubernetes renews the tokens of a pod.
		opts.Token = func() (string, error) {
			token, err := os.ReadFile(path)
			return strings.TrimSpace(string(token)), err
		}
	}
	return access.NewIssuer(opts), nil
}

// issuerClient returns the client that reads the keys of an issuer, a few times an hour.
func issuerClient(files tlsFiles) (*http.Client, error) {
	const (
		connect   = 5 * time.Second // an issuer that drops packets is noticed soon
		redirects = 3
	)
	own, err := files.pair()
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if own != nil {
		settings.Certificates = []tls.Certificate{*own}
	}
	if settings.RootCAs, err = files.pool(); err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: connect}).DialContext,
			TLSClientConfig: settings, TLSHandshakeTimeout: connect, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > redirects:
				return errors.New("too many redirects")
			case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
				return errors.New("a redirect leads to an address without TLS")
			}
			if req.URL.Scheme != via[0].URL.Scheme || req.URL.Host != via[0].URL.Host {
				if own != nil {
					return errors.New("a redirect leads to another host, which must not get the client certificate")
				}
				req.Header.Del("Authorization") // which net/http keeps for other ports and for subdomains
			}
			return nil
		},
	}, nil
}
