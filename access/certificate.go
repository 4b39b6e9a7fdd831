package access

import (
	"crypto/x509"
	"slices"

	"github.com/bmatcuk/doublestar/v4"
)

// newCertificate returns the names in a verified chain, or nil without one.
func newCertificate(chain []*x509.Certificate) *Certificate {
	if len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	// The names of most certificates are DNS names only, and are not copied then.
	c := &Certificate{CommonName: leaf.Subject.CommonName, Organizations: leaf.Subject.Organization, Names: slices.Clip(leaf.DNSNames)}
	for _, address := range leaf.IPAddresses {
		c.Names = append(c.Names, address.String())
	}
	c.Names = append(c.Names, leaf.EmailAddresses...)
	for _, uri := range leaf.URIs {
		c.Names = append(c.Names, uri.String()) // such as the SPIFFE ID of a workload
	}
	return c
}

// name returns the name that stands for the certificate in logs. Certificates of
// today may have no common name (RFC 9525, section 2).
func (c *Certificate) name() string {
	if c.CommonName == "" && len(c.Names) > 0 {
		return c.Names[0]
	}
	return c.CommonName
}

// has reports whether a glob matches the common name, or a subject alternative name.
func (c *Certificate) has(glob string) bool {
	matches := func(name string) bool { return doublestar.MatchUnvalidated(glob, name) }
	return matches(c.CommonName) || slices.ContainsFunc(c.Names, matches)
}
