package door

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// Fixed is the source of one certificate.
type Fixed struct {
	certificate *tls.Certificate
	served      Served
}

// NewFixed returns the source of a certificate with its intermediate authorities.
func NewFixed(certificate *tls.Certificate) (*Fixed, error) {
	served, err := describe(certificate)
	if err != nil {
		return nil, err
	}
	return &Fixed{certificate, served}, nil
}

// Certificate returns the one certificate for every client: one that asks for another
// name gets to know which names there are.
func (f *Fixed) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.certificate, nil
}

// Served returns the one certificate.
func (f *Fixed) Served() []Served { return []Served{f.served} }

// describe returns the facts about a certificate that operators watch. A chain lasts as
// long as the first of its certificates to end.
func describe(certificate *tls.Certificate) (Served, error) {
	var s Served
	for i, der := range certificate.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return Served{}, err
		}
		if i == 0 {
			s = Served{Host: nameOf(parsed), Begins: parsed.NotBefore, Ends: parsed.NotAfter}
		}
		s.Begins, s.Ends = later(s.Begins, parsed.NotBefore), earlier(s.Ends, parsed.NotAfter)
	}
	return s, nil
}

// nameOf returns the first name that clients can verify, or else the common name.
func nameOf(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	default:
		return c.Subject.CommonName
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
