package upstreamtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificates are an authority with a server's and a client's certificate.
type certificates struct {
	t        testing.TB
	ca       *x509.Certificate
	caKey    *ecdsa.PrivateKey
	server   tls.Certificate
	client   tls.Certificate
	clientIs []byte // the client's key, PEM
}

func newCertificates(t testing.TB, host string) *certificates {
	t.Helper()
	c := &certificates{t: t}
	c.caKey = c.key()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstreamtest authority"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(50, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.caKey.Public(), c.caKey)
	c.must(err)
	c.ca, err = x509.ParseCertificate(der)
	c.must(err)
	names := []string{"localhost"}
	if name, _, err := net.SplitHostPort(withPort(host, "https")); err == nil && name != "" {
		names = append(names, name, "*."+name)
	}
	c.server, _ = c.issue("server", names, x509.ExtKeyUsageServerAuth)
	c.client, c.clientIs = c.issue("client", nil, x509.ExtKeyUsageClientAuth)
	return c
}

func (c *certificates) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("upstreamtest: %v", err)
	}
}

func (c *certificates) key() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	return key
}

func (c *certificates) issue(name string, hosts []string, usage x509.ExtKeyUsage) (tls.Certificate, []byte) {
	key := c.key()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: c.ca.NotBefore, NotAfter: c.ca.NotAfter,
		DNSNames: hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, key.Public(), c.caKey)
	c.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	c.must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (c *certificates) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.ca)
	return pool
}

func (c *certificates) serverConfig(clientCert bool) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{c.server}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: c.pool()}
	if clientCert {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config
}

// RootCAs returns the authority of the registry's certificates.
func (r *Registry) RootCAs() *x509.CertPool { return r.certs.pool() }

// ClientCertificate returns a client certificate of the same authority.
func (r *Registry) ClientCertificate() tls.Certificate { return r.certs.client }

// CAFile returns the path of a PEM file with the authority.
func (r *Registry) CAFile() string {
	return r.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.certs.ca.Raw}))
}

// ClientCertificateFiles returns the paths of PEM files with a client
// certificate and its key.
func (r *Registry) ClientCertificateFiles() (certificate, key string) {
	certificate = r.write("client.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.certs.client.Certificate[0]}))
	return certificate, r.write("client.key", r.certs.clientIs)
}

func (r *Registry) write(name string, content []byte) string {
	path := filepath.Join(r.t.TempDir(), name)
	r.certs.must(os.WriteFile(path, content, 0o600))
	return path
}
