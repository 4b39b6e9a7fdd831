package access

import "crypto/x509"

// newCertificate returns the names in a verified chain, or nil without one.
func newCertificate(chain []*x509.Certificate) *Certificate {
	if len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	c := &Certificate{CommonName: leaf.Subject.CommonName, Organizations: leaf.Subject.Organization}
	c.Names = append(c.Names, leaf.DNSNames...)
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

// all returns the names of a certificate: its common name, and its subject alternative
// names.
func (c *Certificate) all() []string { return append([]string{c.CommonName}, c.Names...) }
