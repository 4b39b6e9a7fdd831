package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Served is the state of the certificate that the mirror shows to its own clients.
type Served struct {
	From    string    // the URL of the mirror, or the path of the file if none runs
	Names   []string  // that clients can verify
	Expires time.Time // of the first certificate of the chain to end
	Errors  []string  // clients refuse it
	Remarks []string
}

// ServedTarget is a mirror with TLS.
type ServedTarget struct {
	URL        *url.URL            // nil: it is not known where the mirror listens
	Configured []*x509.Certificate // the certificate that it is to serve, with its chain; none: it gets one by itself
	File       string              // of Configured
	ServerName string              // to ask for; "": that of URL
}

// CheckServed returns the state of the certificate that a mirror serves, or of the
// configured one if no mirror answers. The second result is false if there is neither.
func CheckServed(ctx context.Context, t ServedTarget, now time.Time) (Served, bool) {
	var s Served
	chain, err := t.fetch(ctx)
	switch {
	case err == nil:
		s.From = t.URL.String()
		if len(t.Configured) > 0 && !chain[0].Equal(t.Configured[0]) {
			s.Errors = append(s.Errors, fmt.Sprintf("it is not the one in %s. Check the mirror's log for the reason, or restart it if TLS was just turned on", t.File))
		}
	case len(t.Configured) > 0:
		chain, s.From = t.Configured, t.File
		s.Remarks = append(s.Remarks, fmt.Sprintf("no mirror answers, so the file was read: %v", err))
	default:
		return Served{}, false
	}
	s.judge(chain, now)
	return s, true
}

// fetch returns the chain that a running mirror serves.
func (t ServedTarget) fetch(ctx context.Context) ([]*x509.Certificate, error) {
	if t.URL == nil {
		return nil, errors.New("its port is not known")
	}
	const limit = 5 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	name := t.ServerName
	if name == "" {
		name = t.URL.Hostname()
	}
	var chain []*x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: name,
		// The certificate is judged below, and nothing is sent.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			chain = state.PeerCertificates
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", t.URL.Host)
	if err == nil {
		conn.Close()
	}
	// A mirror that asks for a client's certificate has shown its own before it refuses.
	if len(chain) > 0 {
		return chain, nil
	}
	return nil, err
}

// judge notes the properties of a chain that clients care about.
func (s *Served) judge(chain []*x509.Certificate, now time.Time) {
	leaf := chain[0]
	s.Names = append(s.Names, leaf.DNSNames...)
	for _, address := range leaf.IPAddresses {
		s.Names = append(s.Names, address.String())
	}
	s.Expires = leaf.NotAfter
	for _, c := range chain {
		if c.NotAfter.Before(s.Expires) {
			s.Expires = c.NotAfter
		}
	}
	if len(s.Names) == 0 {
		s.Errors = append(s.Errors, "it has no subject alternative name, and clients ignore the common name. Issue it with alternative names")
	}
	switch left := s.Expires.Sub(now); {
	case left < 0:
		s.Errors = append(s.Errors, fmt.Sprintf("it expired on %s. Renew it", s.Expires.UTC().Format(time.DateOnly)))
	case now.Before(leaf.NotBefore):
		s.Errors = append(s.Errors, fmt.Sprintf("it is not valid before %s. Check the clock of this machine", leaf.NotBefore.UTC().Format(time.DateTime)))
	// A short-lived certificate is renewed late.
	case left < min(expirySoon, leaf.NotAfter.Sub(leaf.NotBefore)/4):
		s.Remarks = append(s.Remarks, fmt.Sprintf("it expires on %s", s.Expires.UTC().Format(time.DateOnly)))
	}
	if !Public(chain) {
		remark := "its authority is not public. Clients need the authority that weir client-config prints"
		// Public authorities name the place of the missing certificate.
		if len(chain) == 1 && len(leaf.IssuingCertificateURL) > 0 {
			remark += ", or the bundle lacks its intermediate authority: " + strings.Join(leaf.IssuingCertificateURL, ", ")
		}
		s.Remarks = append(s.Remarks, remark)
	}
}

// Public reports whether a chain, its own certificate first, leads to an authority of the
// system, whatever the time.
func Public(chain []*x509.Certificate) bool {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Intermediates: between, CurrentTime: chain[0].NotBefore.Add(time.Second)})
	return err == nil
}
