package door

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/weirhq/weir/internal/regular"
)

const (
	// certificateFile and keyFile lie together in one directory, which appears with both
	// of them or not at all.
	certificateFile = "server.crt"
	keyFile         = "server.key"

	// selfSignedDir is the directory of both below that of the data.
	selfSignedDir = "tls"

	// selfSignedYears is long, since each client has to be told of a new certificate.
	selfSignedYears = 10
	// renewBefore is how long before its end a new certificate takes the place of an old
	// one at a start. Operators hear about the end of a certificate at the same time.
	renewBefore = 14 * 24 * time.Hour
	// backdated admits clients whose clocks are late.
	backdated = time.Hour

	// maxPEM is far more than the two files have: some 700 bytes.
	maxPEM = 64 << 10
)

// SelfSignedPath returns the path of the certificate that [SelfSigned] keeps below a
// directory.
func SelfSignedPath(dir string) string { return filepath.Join(dir, selfSignedDir, certificateFile) }

// SelfSigned returns the certificate that the server has made for itself and keeps below
// a directory. It makes one if there is none, or if the old one is about to end, and
// reports that: clients have to be told of it.
func SelfSigned(dir string) (certificate *tls.Certificate, created bool, err error) {
	at := filepath.Join(dir, selfSignedDir)
	_, err = os.Lstat(at)
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing {
		certificate, err = readSelfSigned(at)
		if err != nil || time.Until(certificate.Leaf.NotAfter) > renewBefore {
			return certificate, false, err
		}
	}
	if err := createSelfSigned(dir, at, !missing); err != nil {
		return nil, false, err
	}
	// Another process may have been faster; then both serve its certificate.
	certificate, err = readSelfSigned(at)
	return certificate, true, err
}

func readSelfSigned(at string) (*tls.Certificate, error) {
	certificate, err := regular.ReadFile(filepath.Join(at, certificateFile), maxPEM)
	var key []byte
	if err == nil {
		key, err = regular.ReadFile(filepath.Join(at, keyFile), maxPEM)
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.X509KeyPair(certificate, key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w. Restore the two files in it, or remove the directory, so that Weir creates a new certificate. Then install the new one on the clients", at, err)
	}
	return &pair, nil
}

// createSelfSigned makes a certificate with its key in a directory of their own, and
// renames that into its place, so that no crash and no second process leaves a
// certificate with another one's key. It replaces an old directory only if that is known
// to be of no use.
func createSelfSigned(dir, at string, replace bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(dir, selfSignedDir+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := selfSignedTemplate(now.Add(-backdated), now.AddDate(selfSignedYears, 0, 0))
	if err := writePair(made, template, key); err != nil {
		return err
	}
	// The certificate is for everyone, such as weir client-config of another user.
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	// A directory is renamed over an empty one only.
	if replace {
		old := made + ".old"
		if err := os.Rename(at, old); err != nil {
			return err
		}
		defer os.RemoveAll(old)
	}
	err = os.Rename(made, at)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return nil
	}
	return err
}

// selfSignedTemplate returns a certificate for all names of this machine. It is none of
// an authority, so that its key, if it is stolen, proves no other name to the clients.
func selfSignedTemplate(from, until time.Time) *x509.Certificate {
	// RFC 5280 section 4.1.2.2 allows 20 bytes, of which the first bit is not a sign.
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "host.docker.internal"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	c.Subject = pkix.Name{CommonName: "weir", Organization: []string{"Weir, self-signed"}}
	// A name in a certificate is ASCII (RFC 5280, section 4.2.1.6).
	if host, err := os.Hostname(); err == nil && host != "" && isASCII(host) {
		const maxCommonName = 64 // RFC 5280, appendix A.1
		c.Subject.CommonName = host[:min(len(host), maxCommonName)]
		c.DNSNames = append(c.DNSNames, host)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return c // the names are enough
	}
	for _, address := range addresses {
		network, ok := address.(*net.IPNet)
		// A link-local address has a zone, which no certificate can name.
		if ok && !network.IP.IsLoopback() && !network.IP.IsLinkLocalUnicast() {
			c.IPAddresses = append(c.IPAddresses, network.IP)
		}
	}
	return c
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

// writePair writes a certificate that its own key has signed, and the key, which only
// the owner may read.
func writePair(dir string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writeSynced(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
		writeSynced(filepath.Join(dir, certificateFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
	)
}

// writeSynced writes a new file that survives a power cut, with exactly these rights.
func writeSynced(path string, content []byte, rights fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Chmod(rights), file.Sync(), file.Close())
}

// ephemeral returns a certificate that lives as long as this process, for connections
// that prove nothing.
func ephemeral() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := selfSignedTemplate(now.Add(-backdated), now.AddDate(selfSignedYears, 0, 0))
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
