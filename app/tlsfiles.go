package app

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// tlsFiles is the content of the files that the configuration names for one
// connection: an own certificate, its key, and authorities.
type tlsFiles struct {
	certificate, key, roots file
}

// file is a file that was read. Without a path it is empty.
type file struct {
	path    string
	content []byte
}

func readTLSFiles(certificate, key, roots string) (tlsFiles, error) {
	files := tlsFiles{file{path: certificate}, file{path: key}, file{path: roots}}
	for _, f := range []*file{&files.certificate, &files.key, &files.roots} {
		if f.path == "" {
			continue
		}
		var err error
		if f.content, err = os.ReadFile(f.path); err != nil {
			return files, err
		}
	}
	return files, nil
}

// pair returns the certificate, or nil if there is none. It is parsed before
// the first connection: a wrong file must refuse the configuration, not fail each
// pull.
func (f tlsFiles) pair() (*tls.Certificate, error) {
	if len(f.certificate.content) == 0 {
		return nil, nil //nolint:nilnil // no certificate is an answer
	}
	pair, err := tls.X509KeyPair(f.certificate.content, f.key.content)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", f.certificate.path, f.key.path, err)
	}
	return &pair, nil
}

// pool returns the authorities, or nil for those of the system.
func (f tlsFiles) pool() (*x509.CertPool, error) {
	if len(f.roots.content) == 0 {
		return nil, nil //nolint:nilnil // those of the system are an answer
	}
	// The bundle adds to the system's roots. If those cannot be read, it stands
	// alone.
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(f.roots.content) {
		return nil, fmt.Errorf("%s contains no certificate", f.roots.path)
	}
	return pool, nil
}

// clients returns the authorities alone, without those of the system: no public authority
// may let clients in. It returns nil if there are none.
func (f tlsFiles) clients() (*x509.CertPool, error) {
	if len(f.roots.content) == 0 {
		return nil, nil //nolint:nilnil // to ask for no certificate is an answer
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(f.roots.content) {
		return nil, fmt.Errorf("%s contains no certificate", f.roots.path)
	}
	return pool, nil
}

// client returns the settings of a TLS client.
func (f tlsFiles) client() (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	pair, err := f.pair()
	if err != nil {
		return nil, err
	}
	if pair != nil {
		settings.Certificates = []tls.Certificate{*pair}
	}
	settings.RootCAs, err = f.pool()
	return settings, err
}

// sum returns a digest of the files. Their lengths keep apart files whose content
// is the same when joined.
func (f tlsFiles) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range []file{f.certificate, f.key, f.roots} {
		fmt.Fprintf(h, "%d:", len(part.content))
		h.Write(part.content)
	}
	h.Sum(sum[:0])
	return sum
}
