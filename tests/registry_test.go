package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

// pullImage requests all parts of an image, and checks them.
func (w *weir) pullImage(t *testing.T, name, ref string, img *image) {
	t.Helper()
	a := w.get(t, manifestPath(name, ref))
	if a.Status != http.StatusOK || digest.FromBytes(a.Body) != img.Digest {
		t.Fatalf("manifest %s of %s: %d %s", ref, name, a.Status, a.Body)
	}
	for _, blob := range append([][]byte{img.Config}, img.Layers...) {
		a := w.get(t, blobPath(name, digest.FromBytes(blob)))
		if a.Status != http.StatusOK || !slices.Equal(a.Body, blob) {
			t.Fatalf("a blob of %s: %d, %d of %d bytes", name, a.Status, len(a.Body), len(blob))
		}
	}
}

// A real registry that anybody may read: cold, then warm without a GET.
func TestAnonymousRegistry(t *testing.T) {
	d := startDistribution(t, http.DefaultClient, "http", "", "")
	img := newImage(t, 1<<20, 100)
	push := &pusher{client: http.DefaultClient, base: "http://" + d.Addr}
	push.pushImage(t, "org/app", "1.2", img)
	index := push.pushIndex(t, "org/multi", "1.2", map[string]*image{"amd64": img, "arm64": newImage(t, 1000)})
	w := startWeir(t, fmt.Sprintf("[[repository.\"quay.io\".upstream]]\nurl = \"http://%s\"\n", d.Addr))

	w.pullImage(t, "quay.io/org/app", "1.2", img)
	if a := w.get(t, manifestPath("quay.io/org/multi", "1.2")); !slices.Equal(a.Body, index) {
		t.Errorf("the index: %d %s", a.Status, a.Body)
	}
	eventually(t, "all is stored", func() bool { return w.metric(t, "weir_flights") == 0 })
	cold := d.served("GET", "/v2/org/")
	if want := 2 + 3; cold != want { // the manifest, the index, a config and two layers
		t.Errorf("cold pulls caused %d GETs at the registry, want %d\n%s", cold, want, d.log)
	}
	w.pullImage(t, "quay.io/org/app", "1.2", img)
	w.pullImage(t, "quay.io/org/app", img.Digest.String(), img)
	if warm := d.served("GET", "/v2/org/") - cold; warm != 0 {
		t.Errorf("warm pulls caused %d GETs at the registry\n%s", warm, d.log)
	}
}

func TestHtpasswdRegistry(t *testing.T) {
	const password = "correct horse battery staple"
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	must(t, err)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, htpasswd, "puller:"+string(hash)+"\n")
	d := startDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}", htpasswd))
	img := newImage(t, 1000)
	push := &pusher{client: http.DefaultClient, base: "http://" + d.Addr, username: "puller", password: password}
	push.pushImage(t, "org/app", "1.2", img)

	block := "[[repository.%q.upstream]]\nurl = \"http://%s\"\nusername = \"puller\"\npassword = %q\n"
	w := startWeir(t, fmt.Sprintf(block, "right", d.Addr, password)+fmt.Sprintf(block, "wrong", d.Addr, "wrong"))
	w.pullImage(t, "right/org/app", "1.2", img)

	a := w.get(t, manifestPath("wrong/org/app", "1.2"))
	if a.Status != http.StatusForbidden || a.errorCode() != "DENIED" || !strings.Contains(string(a.Body), d.Addr) {
		t.Errorf("with the wrong password: %d %s; want 403 DENIED that names %s", a.Status, a.Body, d.Addr)
	}
	// What one block may have says nothing about another.
	if a := w.get(t, blobPath("wrong/org/app", digest.FromBytes(img.Config))); a.Status != http.StatusForbidden {
		t.Errorf("a blob that is cached through the other block: %d %s", a.Status, a.Body)
	}
}

// A registry that wants a client certificate, and whose own is of a private CA.
func TestMutualTLSRegistry(t *testing.T) {
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "server")
	clientCert, clientKey := ca.issue(t, "client")
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	}}
	defer client.CloseIdleConnections()
	d := startDistribution(t, client, "https",
		fmt.Sprintf("  tls: {certificate: %q, key: %q, clientcas: [%q]}", serverCert, serverKey, ca.path), "")
	img := newImage(t, 1000)
	push := &pusher{client: client, base: "https://" + d.Addr}
	push.pushImage(t, "org/app", "1.2", img)

	block := fmt.Sprintf("[[repository.%%q.upstream]]\nurl = \"https://%s\"\n", d.Addr)
	w := startWeir(t, fmt.Sprintf(block, "internal")+
		fmt.Sprintf("client_certificate = %q\nclient_private_key = %q\nserver_ca_bundle = %q\n", clientCert, clientKey, ca.path)+
		fmt.Sprintf(block, "no-certificate")+fmt.Sprintf("server_ca_bundle = %q\n", ca.path)+
		fmt.Sprintf(block, "no-authority"))
	w.pullImage(t, "internal/org/app", "1.2", img)
	for _, name := range []string{"no-certificate", "no-authority"} {
		if a := w.get(t, manifestPath(name+"/org/app", "1.2")); a.Status != http.StatusBadGateway || a.errorCode() != "UNAVAILABLE" {
			t.Errorf("%s: %d %s, want 502 UNAVAILABLE", name, a.Status, a.Body)
		}
	}
}

// authority is a certificate authority of a test.
type authority struct {
	path        string // of its certificate
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	path := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return &authority{path: path, certificate: certificate, key: key}
}

// issue makes a certificate for 127.0.0.1 that serves both sides, and returns
// the paths of it and its key.
func (a *authority) issue(t *testing.T, name string) (certificate, privateKey string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certificate, privateKey = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writeFile(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, privateKey, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certificate, privateKey
}
