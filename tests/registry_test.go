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

	"github.com/weirhq/weir/tests/harness"
)

// pullImage requests all parts of an image, and checks them.
func pullImage(t *testing.T, w *harness.Weir, name, ref string, img *harness.Image) {
	t.Helper()
	a := w.Get(t, manifestPath(name, ref))
	if a.Status != http.StatusOK || digest.FromBytes(a.Body) != img.Digest {
		t.Fatalf("manifest %s of %s: %d %s", ref, name, a.Status, a.Body)
	}
	for _, blob := range append([][]byte{img.Config}, img.Layers...) {
		a := w.Get(t, blobPath(name, digest.FromBytes(blob)))
		if a.Status != http.StatusOK || !slices.Equal(a.Body, blob) {
			t.Fatalf("a blob of %s: %d, %d of %d bytes", name, a.Status, len(a.Body), len(blob))
		}
	}
}

// A real registry that anybody may read: cold, then warm without a GET.
func TestAnonymousRegistry(t *testing.T) {
	d := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	img := harness.NewImage(t, 1<<20, 100)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr}
	push.PushImage(t, "org/app", "1.2", img)
	index := push.PushIndex(t, "org/multi", "1.2", map[string]*harness.Image{"amd64": img, "arm64": harness.NewImage(t, 1000)})
	w := harness.StartWeir(t, fmt.Sprintf("[[repository.\"quay.io\".upstream]]\nurl = \"http://%s\"\n", d.Addr))

	pullImage(t, w, "quay.io/org/app", "1.2", img)
	if a := w.Get(t, manifestPath("quay.io/org/multi", "1.2")); !slices.Equal(a.Body, index) {
		t.Errorf("the index: %d %s", a.Status, a.Body)
	}
	harness.Eventually(t, "all is stored", func() bool { return w.Metric(t, "weir_downloads") == 0 })
	cold := d.Served("GET", "/v2/org/")
	if want := 2 + 3; cold != want { // the manifest, the index, a config and two layers
		t.Errorf("cold pulls caused %d GETs at the registry, want %d\n%s", cold, want, d.Log)
	}
	pullImage(t, w, "quay.io/org/app", "1.2", img)
	pullImage(t, w, "quay.io/org/app", img.Digest.String(), img)
	if warm := d.Served("GET", "/v2/org/") - cold; warm != 0 {
		t.Errorf("warm pulls caused %d GETs at the registry\n%s", warm, d.Log)
	}
}

func TestHtpasswdRegistry(t *testing.T) {
	const password = "correct horse battery staple"
	d := startHtpasswd(t, "puller", password)
	img := harness.NewImage(t, 1000)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr, Username: "puller", Password: password}
	push.PushImage(t, "org/app", "1.2", img)

	block := "[[repository.%q.upstream]]\nurl = \"http://%s\"\nusername = \"puller\"\npassword = %q\n"
	w := harness.StartWeir(t, fmt.Sprintf(block, "right", d.Addr, password)+fmt.Sprintf(block, "wrong", d.Addr, "wrong"))
	pullImage(t, w, "right/org/app", "1.2", img)

	a := w.Get(t, manifestPath("wrong/org/app", "1.2"))
	if a.Status != http.StatusForbidden || a.ErrorCode() != "DENIED" || !strings.Contains(string(a.Body), d.Addr) {
		t.Errorf("with the wrong password: %d %s; want 403 DENIED that names %s", a.Status, a.Body, d.Addr)
	}
	// The credentials of one block give no access to another.
	if a := w.Get(t, blobPath("wrong/org/app", digest.FromBytes(img.Config))); a.Status != http.StatusForbidden {
		t.Errorf("a blob that is cached through the other block: %d %s", a.Status, a.Body)
	}
}

// startHtpasswd runs a real registry that has one account.
func startHtpasswd(t *testing.T, username, password string) *harness.Distribution {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	harness.Must(t, err)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	harness.WriteFile(t, htpasswd, username+":"+string(hash)+"\n")
	return harness.StartDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}", htpasswd))
}

// A registry that wants a client certificate, and whose own is of a private CA.
func TestMutualTLSRegistry(t *testing.T) {
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "server")
	clientCert, clientKey := ca.issue(t, "client")
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	harness.Must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	}}
	defer client.CloseIdleConnections()
	d := harness.StartDistribution(t, client, "https",
		fmt.Sprintf("  tls: {certificate: %q, key: %q, clientcas: [%q]}", serverCert, serverKey, ca.path), "")
	img := harness.NewImage(t, 1000)
	push := &harness.Pusher{Client: client, Base: "https://" + d.Addr}
	push.PushImage(t, "org/app", "1.2", img)

	block := fmt.Sprintf("[[repository.%%q.upstream]]\nurl = \"https://%s\"\n", d.Addr)
	w := harness.StartWeir(t, fmt.Sprintf(block, "internal")+
		fmt.Sprintf("client_certificate = %q\nclient_private_key = %q\nserver_ca_bundle = %q\n", clientCert, clientKey, ca.path)+
		fmt.Sprintf(block, "no-certificate")+fmt.Sprintf("server_ca_bundle = %q\n", ca.path)+
		fmt.Sprintf(block, "no-authority"))
	pullImage(t, w, "internal/org/app", "1.2", img)
	for _, name := range []string{"no-certificate", "no-authority"} {
		if a := w.Get(t, manifestPath(name+"/org/app", "1.2")); a.Status != http.StatusBadGateway || a.ErrorCode() != "UNAVAILABLE" {
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
	harness.Must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	harness.Must(t, err)
	certificate, err := x509.ParseCertificate(der)
	harness.Must(t, err)
	path := filepath.Join(t.TempDir(), "ca.pem")
	harness.WriteFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return &authority{path: path, certificate: certificate, key: key}
}

// issue makes a certificate for 127.0.0.1, and hosts, that serves both sides, and
// returns the paths of it and its key.
func (a *authority) issue(t *testing.T, name string, hosts ...string) (certificate, privateKey string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	harness.Must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	harness.Must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	harness.Must(t, err)
	dir := t.TempDir()
	certificate, privateKey = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	harness.WriteFile(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	harness.WriteFile(t, privateKey, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certificate, privateKey
}
