package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/whoami"
)

// errNotMade says that a mirror has not made its self-signed certificate yet.
var errNotMade = errors.New("the mirror creates its self-signed certificate at its first start")

// serverCertificate returns the certificate that a mirror with a configuration serves,
// with its chain, as a file has it.
func serverCertificate(cfg *config.Config) (path string, content []byte, chain []*x509.Certificate, err error) {
	t := cfg.Server.TLS
	path = t.ServerCertificateBundle
	if t.SelfSigned {
		path = door.SelfSignedPath(cfg.BlobStore.FS.RootDir)
	}
	content, err = os.ReadFile(path)
	if t.SelfSigned && errors.Is(err, fs.ErrNotExist) {
		return path, nil, nil, fmt.Errorf("%w (%s)", errNotMade, path)
	}
	if err != nil {
		return path, nil, nil, whoami.Explain(err)
	}
	chain, err = parseChain(path, content)
	return path, content, chain, err
}

// parseChain reads the certificates of a PEM file.
func parseChain(path string, content []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" { // such as the key in a combined file
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%s contains no PEM certificate", path)
	}
	return chain, nil
}

// firstName returns a name that a client can verify a certificate by.
func firstName(c *x509.Certificate) string {
	switch {
	// "*" is not a name of a host.
	case len(c.DNSNames) > 0:
		return strings.Replace(c.DNSNames[0], "*", "weir", 1)
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	default:
		return c.Subject.CommonName
	}
}

// hostOf returns a host of a mirror that gets its certificate from an authority.
func hostOf(a *config.ACME) string { return strings.Replace(a.Hosts[0], "*", "weir", 1) }

// mirrorFlags are the flags of a command that is a client of a mirror.
type mirrorFlags struct{ ca, certificate, key string }

func (f *mirrorFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.ca, "ca", "", "trust the authorities in `FILE` in addition to those of the system, for a mirror with TLS")
	cmd.Flags().StringVar(&f.certificate, "client-cert", "", "use the client certificate in `FILE`")
	cmd.Flags().StringVar(&f.key, "client-key", "", "`FILE` with the key of --client-cert")
}

// settings returns the TLS settings of a client. With a configuration the mirror is that
// of this machine: it is trusted by the certificate that it is configured with, whatever
// address it is reached at.
func (f mirrorFlags) settings(local *config.Config) (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if (f.certificate == "") != (f.key == "") {
		return nil, errors.New("--client-cert and --client-key must be used together")
	}
	if f.certificate != "" {
		pair, err := tls.LoadX509KeyPair(f.certificate, f.key)
		if err != nil {
			return nil, fmt.Errorf("--client-cert, --client-key: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	var trusted [][]byte
	if f.ca != "" {
		content, err := os.ReadFile(f.ca)
		if err == nil {
			_, err = parseChain(f.ca, content)
		}
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		trusted = append(trusted, content)
	}
	switch {
	case local == nil || local.Server.TLS == nil:
	case local.Server.TLS.ACME != nil:
		settings.ServerName = hostOf(local.Server.TLS.ACME)
	default:
		_, content, chain, err := serverCertificate(local)
		if err != nil {
			return nil, failure{exitFailed, err}
		}
		trusted, settings.ServerName = append(trusted, content), firstName(chain[0])
	}
	if len(trusted) == 0 {
		return settings, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, content := range trusted {
		pool.AppendCertsFromPEM(content)
	}
	settings.RootCAs = pool
	return settings, nil
}

// addTo adds the certificates to a mirror that its clients need, and returns warnings.
func (f mirrorFlags) addTo(m *clientconfig.Mirror, cfg *config.Config) (warnings []string, err error) {
	if _, err := f.settings(nil); err != nil {
		return nil, err
	}
	if m.Plain {
		if cfg.Server.TLS != nil {
			warnings = append(warnings, "the mirror speaks TLS (server.tls), but "+m.URL+" is plain HTTP. Use its https:// URL with --url")
		}
		return warnings, nil
	}
	if f.certificate != "" {
		if m.Certificate, err = textOf(f.certificate); err == nil {
			m.Key, err = textOf(f.key)
		}
		if err != nil {
			return nil, err
		}
	} else if cfg.Server.TLS.RequiresClient() {
		warnings = append(warnings, "the mirror serves only clients with a certificate (server.tls.client_auth). Name one with --client-cert and --client-key")
	}
	if f.ca != "" {
		m.CA, err = textOf(f.ca)
		return warnings, err
	}
	// Another server speaks TLS before the mirror, and its certificate is not known here.
	if cfg.Server.TLS == nil {
		return warnings, nil
	}
	if acme := cfg.Server.TLS.ACME; acme != nil {
		// The authority of the directory's own server may be another one.
		if acme.CABundle != "" {
			warnings = append(warnings, "the authority of server.tls.acme is private. Name the root of the certificates that it issues with --ca")
		}
		return warnings, nil
	}
	path, _, chain, err := serverCertificate(cfg)
	if err != nil {
		return nil, failure{exitFailed, err}
	}
	if u, err := url.Parse(m.URL); err == nil && chain[0].VerifyHostname(u.Hostname()) != nil {
		warnings = append(warnings, fmt.Sprintf("clients will refuse the certificate in %s at %s. It is for %s", path, m.URL, strings.Join(namesOf(chain[0]), ", ")))
	}
	if check.Public(chain) {
		return warnings, nil
	}
	anchor := chain[len(chain)-1]
	if anchor.CheckSignatureFrom(anchor) != nil && !slices.Equal(anchor.RawIssuer, anchor.RawSubject) {
		warnings = append(warnings, fmt.Sprintf("%s does not contain the authority itself, so clients trust its last certificate until that is renewed. Name the authority with --ca", path))
	}
	m.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchor.Raw}))
	return warnings, nil
}

// namesOf returns the names that clients verify a certificate by.
func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, address := range c.IPAddresses {
		names = append(names, address.String())
	}
	return names
}

// textOf returns the content of a PEM file, which ends with a line end.
func textOf(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", whoami.Explain(err)
	}
	return strings.TrimRight(string(content), "\r\n") + "\n", nil
}
