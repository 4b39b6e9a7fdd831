package config

// Values of [TLS.ClientAuth].
const (
	ClientAuthOptional = "optional" // a client may have no certificate; one that it has must be valid
	ClientAuthRequired = "required"
)

// TLS is the certificate that the server shows to clients, and the one that it asks of
// them. The certificate comes from exactly one place: files, or Weir itself.
type TLS struct {
	ServerCertificateBundle string `toml:"server_certificate_bundle" reload:"live"` // path of a PEM file: the certificate, then its intermediate authorities
	ServerPrivateKey        string `toml:"server_private_key" reload:"live"`        // path of a PEM file
	SelfSigned              bool   `toml:"self_signed" reload:"live"`               // made at the first start, and kept in root_dir
	ClientCABundle          string `toml:"client_ca_bundle" reload:"live"`          // path of a PEM file; empty: no client certificate is asked for
	ClientAuth              string `toml:"client_auth" reload:"live"`               // optional or required
	HTTP2                   bool   `toml:"http2" reload:"live"`
}

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
	switch {
	case t.SelfSigned && t.hasFiles():
		v.fail(at+".self_signed", "is true, and server_certificate_bundle or server_private_key is set; keep one of the two certificates")
	case !t.SelfSigned && !t.hasFiles():
		v.fail(at, "has no certificate; set server_certificate_bundle and server_private_key, or self_signed = true")
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
