package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// pair checks the files of a certificate and its key, which come together.
func (v *validator) pair(at, nameA, certificateFile, nameB, keyFile string) {
	if !v.together(at, nameA, certificateFile, nameB, keyFile) {
		return
	}
	// Both files are read before the pair is judged, so that one report names both.
	certificate, certificateErr := readRegular(certificateFile)
	v.failed(at+"."+nameA, certificateErr)
	key, keyErr := readRegular(keyFile)
	v.failed(at+"."+nameB, keyErr)
	if certificateErr != nil || keyErr != nil {
		return
	}
	if err := CheckPair(certificate, key); err != nil {
		if _, unpaired := errors.AsType[*pairError](err); unpaired {
			err = fmt.Errorf("does not go with %s: %w", nameB, err)
		}
		v.failed(at+"."+nameA, err)
	}
}

// pairError says why a certificate does not go with a key.
type pairError struct{ error }

func (e *pairError) Unwrap() error { return e.error }

// CheckPair returns an error unless two texts in PEM form are a certificate, with its intermediate
// authorities, and its key. The error holds nothing of the key.
func CheckPair(certificate, key []byte) error {
	if _, err := tls.X509KeyPair(certificate, key); err != nil {
		return &pairError{explainPair(certificate, key, err)}
	}
	return checkWhole(certificate)
}

// pemFile is the content of a PEM file, as far as it matters for a certificate with its key.
type pemFile struct {
	certificates [][]byte // DER
	key          bool
	encrypted    bool // the key is
	err          error
}

func readPEM(text []byte) pemFile {
	file := pemFile{err: checkWhole(text)}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "CERTIFICATE":
			file.certificates = append(file.certificates, block.Bytes)
		// PKCS #8 (RFC 5958) says it in the type, and the older form in a header (RFC 1421).
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			file.key, file.encrypted = true, true
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			file.key = true
		}
	}
	return file
}

// explainPair returns the cause and the remedy of an error of [tls.X509KeyPair], which names
// mistakes by their effect on the parser.
func explainPair(certificateText, keyText []byte, err error) error {
	certificate, key := readPEM(certificateText), readPEM(keyText)
	const names = "A certificate begins with -----BEGIN CERTIFICATE-----, and a key with -----BEGIN PRIVATE KEY----- or similar"
	switch {
	case certificate.err != nil:
		return fmt.Errorf("the file of the certificate %w", certificate.err)
	case key.err != nil:
		return fmt.Errorf("the file of the key %w", key.err)
	case len(certificate.certificates) == 0 && certificate.key && len(key.certificates) > 0:
		return errors.New("each names the file of the other. Swap them")
	case key.encrypted:
		return errors.New("the key is encrypted, and Weir has no passphrase. Write it without encryption, readable by Weir alone: openssl pkey -in ENCRYPTED -out KEY")
	case len(certificate.certificates) == 0 && isDER(certificateText):
		return errors.New("the certificate is in DER form. Write it in PEM form: openssl x509 -inform der -in CERTIFICATE -out PEM")
	case len(certificate.certificates) == 0:
		return errors.New("the certificate file contains no PEM certificate. " + names)
	case !key.key:
		return errors.New("the key file contains no PEM key. " + names)
	}
	for i, der := range certificate.certificates[1:] {
		alone := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if _, err := tls.X509KeyPair(alone, keyText); err == nil {
			return fmt.Errorf("the key is that of certificate %d in the file. Write this one first, and its intermediate authorities after it", i+2)
		}
	}
	return fmt.Errorf("the key belongs to another certificate. Name the key that this certificate was issued for (%w)", err)
}

// isDER reports whether a text is a certificate in the binary form.
func isDER(text []byte) bool {
	certificates, err := x509.ParseCertificates(text)
	return err == nil && len(certificates) > 0 // an empty file has none
}

// errCutPEM says that a file is half-written.
var errCutPEM = errors.New("has a truncated or damaged PEM block. Write the file again, preferably by renaming a complete one over it")

// checkWhole returns an error if a block of PEM has no end. Decoders pass over such a block:
// a half-written file would lose an intermediate certificate, or an authority.
func checkWhole(text []byte) error {
	begun, whole := 0, 0
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("-----BEGIN ")) {
			begun++
		}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		whole++
	}
	if whole < begun {
		return errCutPEM
	}
	return nil
}

func checkBundle(file string) error {
	text, err := readRegular(file)
	if err != nil {
		return err
	}
	return CheckAuthorities(text)
}

// CheckAuthorities returns an error unless a text in PEM form has certificates.
func CheckAuthorities(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("contains no PEM certificate")
	}
	return checkWhole(text)
}
