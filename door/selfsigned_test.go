package door_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/testutil"
)

// A self-signed certificate is for all names of this machine, and no authority.
func TestSelfSigned(t *testing.T) {
	dir := t.TempDir()
	certificate, created, err := door.SelfSigned(dir)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	leaf, host := certificate.Leaf, "localhost"
	if name, err := os.Hostname(); err == nil {
		host = name
	}
	pool := x509.NewCertPool()
	content, err := os.ReadFile(door.SelfSignedPath(dir))
	if err != nil || !pool.AppendCertsFromPEM(content) {
		t.Fatal(err)
	}
	names := []string{"localhost", "host.docker.internal", "127.0.0.1", "::1", host}
	addresses, err := net.InterfaceAddrs()
	must(t, err)
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && !network.IP.IsLinkLocalUnicast() {
			names = append(names, network.IP.String())
		}
	}
	for _, name := range names {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if years := leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24 / 365.25; years < 9.9 || years > 10.1 {
		t.Errorf("it is valid for %.1f years", years)
	}
	if leaf.IsCA || !isP256(leaf) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		t.Errorf("CA %v, %s, usage %v", leaf.IsCA, leaf.PublicKeyAlgorithm, leaf.ExtKeyUsage)
	}
	key := filepath.Join(filepath.Dir(door.SelfSignedPath(dir)), "server.key")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info.Mode(), err)
	}

	again, created, err := door.SelfSigned(dir)
	if err != nil || created || !bytes.Equal(again.Certificate[0], certificate.Certificate[0]) {
		t.Errorf("after a restart: created %v, %v", created, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func isP256(c *x509.Certificate) bool {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	return ok && key.Curve == elliptic.P256()
}

// Processes that start at once serve one certificate, each with its key.
func TestSelfSignedByTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	var made sync.Map
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			certificate, _, err := door.SelfSigned(dir)
			if err != nil {
				t.Error(err)
				return
			}
			made.Store(string(certificate.Certificate[0]), true)
		})
	}
	all.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if entries, _ := os.ReadDir(dir); n != 1 || len(entries) != 1 {
		t.Errorf("%d certificates, files %v", n, entries)
	}
}

// A certificate about to end is replaced. A damaged one is an error, since a new one
// would lock out all clients.
func TestSelfSignedOfEarlier(t *testing.T) {
	authority := testutil.NewAuthority(t)
	for name, c := range map[string]struct {
		left     time.Duration
		change   func(t *testing.T, at string)
		replaced bool
		fails    bool
	}{
		"lasts":           {left: 30 * 24 * time.Hour},
		"ends soon":       {left: 24 * time.Hour, replaced: true},
		"expired":         {left: -time.Hour, replaced: true},
		"without its key": {left: 30 * 24 * time.Hour, fails: true, change: func(t *testing.T, at string) { must(t, os.Remove(filepath.Join(at, "server.key"))) }},
		"key of another":  {left: 30 * 24 * time.Hour, fails: true, change: func(t *testing.T, at string) { plant(t, testutil.NewAuthority(t), at, time.Hour, "server.key") }},
		"cut":             {left: 30 * 24 * time.Hour, fails: true, change: func(t *testing.T, at string) { must(t, os.Truncate(filepath.Join(at, "server.crt"), 100)) }},
		"a link": {left: 30 * 24 * time.Hour, fails: true, change: func(t *testing.T, at string) {
			must(t, os.Remove(filepath.Join(at, "server.key")))
			must(t, os.Symlink("/etc/hostname", filepath.Join(at, "server.key")))
		}},
		"a file in its place": {fails: true, change: func(t *testing.T, at string) {
			must(t, os.RemoveAll(at))
			must(t, os.WriteFile(at, nil, 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Dir(door.SelfSignedPath(dir))
			must(t, os.Mkdir(at, 0o755))
			plant(t, authority, at, c.left, "server.crt", "server.key")
			if c.change != nil {
				c.change(t, at)
			}
			certificate, created, err := door.SelfSigned(dir)
			if (err != nil) != c.fails || created != c.replaced {
				t.Errorf("created %v, %v", created, err)
			}
			if err != nil && (!strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "remove the directory, so that Weir creates a new certificate")) {
				t.Errorf("the error has no remedy: %v", err)
			}
			if err == nil && time.Until(certificate.Leaf.NotAfter) < 20*24*time.Hour {
				t.Errorf("it ends on %s", certificate.Leaf.NotAfter)
			}
		})
	}
}

// plant writes files of a pair into a directory.
func plant(t *testing.T, authority *testutil.Authority, at string, left time.Duration, files ...string) {
	t.Helper()
	certificate, key := authority.Issue("server", time.Now().Add(left))
	for name, path := range map[string]string{"server.crt": certificate, "server.key": key} {
		if slices.Contains(files, name) {
			content, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(at, name), content, 0o600))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
