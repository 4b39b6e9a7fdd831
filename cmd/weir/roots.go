package main

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// places are where crypto/x509 looks for certificates of authorities on Linux: in the first of
// the files that can be read, and in all files of the directories.
type places struct{ files, directories []string }

// placesOf returns the places for values of the variables SSL_CERT_FILE and SSL_CERT_DIR.
func placesOf(file, directories string) places {
	p := places{
		files: []string{
			"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
			"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
		},
		directories: []string{"/etc/ssl/certs", "/etc/pki/tls/certs"},
	}
	if file != "" {
		p.files = []string{file}
	}
	if directories != "" {
		p.directories = strings.Split(directories, ":")
	}
	return p
}

// useFallbackRoots makes the authorities of the program those of the process, for images and
// machines without CA certificates. To read both is a good part of a start, so it looks first
// whether the machine has any: one is enough for crypto/x509.
func useFallbackRoots() {
	forced := strings.Contains(os.Getenv("GODEBUG"), "x509usefallbackroots=1")
	if runtime.GOOS == "linux" && !forced && placesOf(os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR")).haveRoot() {
		return
	}
	x509.SetFallbackRoots(fallbackRoots())
}

// haveRoot reports whether crypto/x509 finds a certificate in the places.
func (p places) haveRoot() bool {
	for _, file := range p.files {
		has, err := fileHasCertificate(file)
		if err != nil {
			continue
		}
		if has {
			return true
		}
		break // the first file that can be read is the only one
	}
	for _, directory := range p.directories {
		entries, _ := os.ReadDir(directory) // one that cannot be read has none
		for _, entry := range entries {
			if has, err := fileHasCertificate(filepath.Join(cmp.Or(directory, "/"), entry.Name())); err == nil && has {
				return true
			}
		}
	}
	return false
}

// fileHasCertificate reports whether a file has a certificate. Bundles have hundreds, and the
// first one is in the first few KiB.
func fileHasCertificate(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 8<<10))
	if err != nil || hasCertificate(text) {
		return err == nil, err
	}
	rest, err := io.ReadAll(file)
	return err == nil && hasCertificate(append(text, rest...)), err
}

// hasCertificate reports whether x509.CertPool.AppendCertsFromPEM would find a certificate.
func hasCertificate(text []byte) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			return true
		}
	}
	return false
}

// fallbackRoots returns the authorities that Mozilla trusts.
func fallbackRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			panic(err) // cannot be: the bundle's own test parses them
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	return pool
}
