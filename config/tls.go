package config

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/weirhq/weir/internal/hosts"
)

// Values of [TLS.ClientAuth].
const (
	ClientAuthOptional = "optional" // a client may have no certificate; one that it has must be valid
	ClientAuthRequired = "required"
)

// TLS is the certificate that the server shows to clients, and the one that it asks of
// them. The certificate comes from exactly one place: files, Weir itself, or an authority
// that it asks.
type TLS struct {
	ServerCertificateBundle string `toml:"server_certificate_bundle" reload:"live"` // path of a PEM file: the certificate, then its intermediate authorities
	ServerPrivateKey        string `toml:"server_private_key" reload:"live"`        // path of a PEM file
	SelfSigned              bool   `toml:"self_signed" reload:"live"`               // made at the first start, and kept in root_dir
	ClientCABundle          string `toml:"client_ca_bundle" reload:"live"`          // path of a PEM file; empty: no client certificate is asked for
	ClientAuth              string `toml:"client_auth" reload:"live"`               // optional or required
	HTTP2                   bool   `toml:"http2" reload:"live"`
	ACME                    *ACME  `toml:"acme" reload:"live"` // nil: no authority is asked
}

// ACME is the authority that issues certificates (RFC 8555), and how it is convinced.
type ACME struct {
	Hosts      []string `toml:"hosts"`
	Email      string   `toml:"email"`
	Directory  URL      `toml:"directory_url"`
	CABundle   string   `toml:"ca_bundle"` // path of a PEM file, added to the system roots
	Challenge  string   `toml:"challenge"` // http-01, tls-alpn-01 or dns-01
	HTTPPort   int      `toml:"http_port"` // of the listener for http-01
	EABKeyID   string   `toml:"eab_key_id"`
	EABHMACKey Secret   `toml:"eab_hmac_key"`
	DNS        *ACMEDNS `toml:"dns"` // for dns-01
}

// ACMEDNS is the access to the DNS server of dns-01. Each provider has keys of its own.
type ACMEDNS struct {
	Provider string `toml:"provider"` // rfc2136, acme-dns or exec

	Server        string `toml:"server"` // rfc2136: host or host:port
	Zone          string `toml:"zone"`
	TSIGName      string `toml:"tsig_name"` // empty: updates are not signed
	TSIGAlgorithm string `toml:"tsig_algorithm"`
	TSIGSecret    Secret `toml:"tsig_secret"` // base64

	URL       string `toml:"url"` // acme-dns
	Username  string `toml:"username"`
	Password  Secret `toml:"password"`
	Subdomain string `toml:"subdomain"`

	Command []string `toml:"command"` // exec: the program and its first arguments
}

// Values of [ACME.Challenge].
const (
	ChallengeHTTP    = "http-01"
	ChallengeTLSALPN = "tls-alpn-01"
	ChallengeDNS     = "dns-01"
)

// Values of [ACMEDNS.Provider].
const (
	ProviderRFC2136 = "rfc2136"
	ProviderACMEDNS = "acme-dns"
	ProviderExec    = "exec"
)

// RequiresClient reports whether only clients with a certificate are served. Without
// TLS there are no certificates.
func (t *TLS) RequiresClient() bool {
	return t != nil && t.ClientAuth == ClientAuthRequired
}

// hasFiles reports whether the certificate comes from files.
func (t *TLS) hasFiles() bool { return t.ServerCertificateBundle != "" || t.ServerPrivateKey != "" }

// tls checks the table [server.tls], if there is one.
func (v *validator) tls() {
	t := v.config.Server.TLS
	if t == nil {
		return
	}
	const at = "server.tls"
	const remedy = "keep one of the certificates"
	switch {
	case t.SelfSigned && t.hasFiles():
		v.fail(at+".self_signed", "cannot be true while server_certificate_bundle or server_private_key is set; "+remedy)
	case t.ACME != nil && (t.SelfSigned || t.hasFiles()):
		v.fail(at+".acme", "cannot be combined with self_signed, server_certificate_bundle or server_private_key; "+remedy)
	case t.ACME != nil:
		v.acme(at+".acme", *t.ACME)
	case !t.SelfSigned && !t.hasFiles():
		v.fail(at, "has no certificate; set server_certificate_bundle and server_private_key, or self_signed = true, or write [server.tls.acme]")
	default:
		v.pair(at, "server_certificate_bundle", t.ServerCertificateBundle, "server_private_key", t.ServerPrivateKey)
	}
	v.oneOf(at+".client_auth", t.ClientAuth, ClientAuthOptional, ClientAuthRequired)
	switch {
	case t.ClientCABundle != "":
		v.failed(at+".client_ca_bundle", checkBundle(t.ClientCABundle))
	// No certificate could be verified, so every client would be refused.
	case t.RequiresClient():
		v.fail(at+".client_ca_bundle", `is missing: client_auth is "required"; name the authorities of the clients' certificates`)
	}
}

// maxCertificateHosts is the limit of Let's Encrypt for the names of an order.
const maxCertificateHosts = 100

// certificateHost is a host name with a dot or without, as a certificate can have it.
var certificateHost = sync.OnceValue(func() *regexp.Regexp { // compiled if there are certificates of an authority
	return regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
})

func (v *validator) acme(at string, a ACME) {
	v.oneOf(at+".challenge", a.Challenge, ChallengeHTTP, ChallengeTLSALPN, ChallengeDNS)
	if len(a.Hosts) == 0 || len(a.Hosts) > maxCertificateHosts {
		v.fail(at+".hosts", "must name the hosts that clients reach the mirror by, at most %d", maxCertificateHosts)
	}
	for i, host := range a.Hosts {
		_, notAddress := netip.ParseAddr(host)
		switch key := elementOf(at+".hosts", i); {
		case notAddress != nil && !certificateHost().MatchString(strings.ToLower(host)):
			v.fail(key, `must be a host name such as "mirror.example.com", without a port`)
		case slices.ContainsFunc(a.Hosts[:i], func(other string) bool { return strings.EqualFold(host, other) }):
			v.fail(key, "is listed twice")
		// RFC 8555 section 7.1.3, and RFC 8738 section 7.
		case strings.HasPrefix(host, "*.") && a.Challenge != ChallengeDNS:
			v.fail(key, `is a wildcard, which requires challenge = "dns-01"`)
		case notAddress == nil && a.Challenge == ChallengeDNS:
			v.fail(key, `is an address, which "dns-01" cannot prove`)
		}
	}
	if a.Directory == (URL{}) || a.Directory.Std().Scheme != "https" {
		v.fail(at+".directory_url", "must be the https:// URL of the authority's directory")
	}
	if a.CABundle != "" {
		v.failed(at+".ca_bundle", checkBundle(a.CABundle))
	}
	if a.HTTPPort < 1 || a.HTTPPort > 65535 {
		v.fail(at+".http_port", "must be between 1 and 65535, not %d", a.HTTPPort)
	}
	if a.Challenge == ChallengeHTTP && a.HTTPPort == v.config.Server.Port {
		v.fail(at+".http_port", "is server.port, which speaks TLS; http-01 needs a port of its own")
	}
	if v.together(at, "eab_key_id", a.EABKeyID, "eab_hmac_key", a.EABHMACKey.Reveal()) {
		if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(a.EABHMACKey.Reveal(), "=")); err != nil {
			v.fail(at+".eab_hmac_key", "is not base64url, as the authority gives it")
		}
	}
	switch {
	case a.Challenge == ChallengeDNS && a.DNS == nil:
		v.fail(at+".dns", `is missing: challenge is "dns-01"`)
	case a.Challenge != ChallengeDNS && a.DNS != nil:
		v.fail(at+".dns", `has no effect without challenge = "dns-01"`)
	case a.DNS != nil:
		v.acmeDNS(at+".dns", *a.DNS)
	}
}

func (v *validator) acmeDNS(at string, d ACMEDNS) {
	v.oneOf(at+".provider", d.Provider, ProviderRFC2136, ProviderACMEDNS, ProviderExec)
	// A key of another provider has no effect, although the operator expects one.
	keys := []struct {
		provider, name, value string
		required              bool
	}{
		{ProviderRFC2136, "server", d.Server, true}, {ProviderRFC2136, "zone", d.Zone, true},
		{ProviderRFC2136, "tsig_name", d.TSIGName, false}, {ProviderRFC2136, "tsig_secret", d.TSIGSecret.Reveal(), false},
		{ProviderACMEDNS, "url", d.URL, true}, {ProviderACMEDNS, "username", d.Username, true},
		{ProviderACMEDNS, "password", d.Password.Reveal(), true}, {ProviderACMEDNS, "subdomain", d.Subdomain, true},
		{ProviderExec, "command", strings.Join(d.Command, " "), true},
	}
	for _, key := range keys {
		switch {
		case key.provider != d.Provider && key.value != "":
			v.fail(keyIn(at, key.name), "is for provider = %q", key.provider)
		case key.provider == d.Provider && key.required && key.value == "":
			v.fail(keyIn(at, key.name), "is missing: provider is %q", key.provider)
		}
	}
	switch d.Provider {
	case ProviderRFC2136:
		v.rfc2136(at, d)
	case ProviderACMEDNS:
		if u, err := url.Parse(d.URL); d.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil) {
			v.fail(at+".url", `must be a URL such as "https://auth.acme-dns.io", without credentials`)
		}
	case ProviderExec:
		if len(d.Command) == 0 {
			return
		}
		if _, err := exec.LookPath(d.Command[0]); err != nil {
			v.fail(at+".command[0]", "cannot be run: %w", err)
		}
	}
}

func (v *validator) rfc2136(at string, d ACMEDNS) {
	if host, port, err := net.SplitHostPort(d.ServerAddress()); d.Server != "" && (err != nil || !hosts.ValidPort(port) || !hostName.MatchString(host) && net.ParseIP(host) == nil) {
		v.fail(at+".server", `must be a host name or an IP address, with an optional port, such as "ns1.example.com" or "[2001:db8::53]:53"`)
	}
	if d.Zone != "" && !certificateHost().MatchString(strings.TrimSuffix(strings.ToLower(d.Zone), ".")) {
		v.fail(at+".zone", `must be the name of a zone, such as "example.com"`)
	}
	if v.together(at, "tsig_name", d.TSIGName, "tsig_secret", d.TSIGSecret.Reveal()) {
		if _, err := base64.StdEncoding.DecodeString(d.TSIGSecret.Reveal()); err != nil {
			v.fail(at+".tsig_secret", "is not base64, as tsig-keygen prints it")
		}
	}
	v.oneOf(at+".tsig_algorithm", strings.TrimSuffix(d.TSIGAlgorithm, "."), "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
}

// ServerAddress returns the DNS server with a port.
func (d ACMEDNS) ServerAddress() string {
	if _, _, err := net.SplitHostPort(d.Server); err == nil {
		return d.Server
	}
	return net.JoinHostPort(strings.Trim(d.Server, "[]"), "53")
}
