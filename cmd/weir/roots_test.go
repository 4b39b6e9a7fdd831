package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The program's own authorities are used if crypto/x509 finds none in the same places.
func TestHaveRoot(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[:100]}))
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	labelled := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: der}))
	for name, c := range map[string]struct {
		files     map[string]string
		file, dir string // below the directory of the test; "" stands for one that does not exist
		want      bool
	}{
		"nothing":                   {nil, "", "", false},
		"a file":                    {map[string]string{"x": certificate}, "x", "", true},
		"an empty file":             {map[string]string{"x": ""}, "x", "", false},
		"text alone":                {map[string]string{"x": "no certificates here\n"}, "x", "", false},
		"text before it":            {map[string]string{"x": "# My CA\n" + certificate}, "x", "", true},
		"much text before it":       {map[string]string{"x": strings.Repeat("# My CA\n", 5000) + certificate}, "x", "", true},
		"where the first part ends": {map[string]string{"x": strings.Repeat("#", 8100) + "\n" + certificate}, "x", "", true},
		"a broken one":              {map[string]string{"x": broken}, "x", "", false},
		"a broken one before it":    {map[string]string{"x": broken + secret + certificate}, "x", "", true},
		"a private key":             {map[string]string{"x": secret}, "x", "", false},
		"with a header":             {map[string]string{"x": labelled}, "x", "", false},
		"DER":                       {map[string]string{"x": string(der)}, "x", "", false},
		"cut":                       {map[string]string{"x": certificate[:len(certificate)/2]}, "x", "", false},
		"a directory in its place":  {map[string]string{"x/y": certificate}, "x", "", false},
		"in a directory":            {map[string]string{"d/a": "", "d/b": certificate}, "", "d", true},
		"in a directory below":      {map[string]string{"d/a/b": certificate}, "", "d", false},
		"in the last of two":        {map[string]string{"d/a": broken, "e/b": certificate}, "", "d:e", true},
		"an empty file, and others": {map[string]string{"x": "", "d/a": certificate}, "x", "d", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file, directories := filepath.Join(dir, "missing"), filepath.Join(dir, "missing")
			if c.file != "" {
				file = filepath.Join(dir, c.file)
			}
			if c.dir != "" {
				parts := strings.Split(c.dir, ":")
				for i := range parts {
					parts[i] = filepath.Join(dir, parts[i])
				}
				directories = strings.Join(parts, ":")
			}
			if got := placesOf(file, directories).haveRoot(); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// Where the variables say nothing, the usual places count: the first file that can be read
// decides, whatever the later ones hold.
func TestFirstFileCounts(t *testing.T) {
	if p := placesOf("", ""); len(p.files) < 2 || len(p.directories) < 2 {
		t.Error(p)
	}
	dir := t.TempDir()
	if fallbackRoots().Equal(x509.NewCertPool()) {
		t.Error("the program has no authorities")
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := places{files: []string{filepath.Join(dir, "missing"), empty, "/proc/self/exe"}}
	if p.haveRoot() {
		t.Error("a file behind the first one counts")
	}
}
