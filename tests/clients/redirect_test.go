package clients

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// objects is a bucket on a real server. Clients reach it through fronts, which count their
// bytes. The mirrors do not use the fronts.
type objects struct {
	*harness.Bucket
	mu   sync.Mutex
	sent map[string]int // bytes of bodies, by the last part of the key
}

func startObjects(t *testing.T) *objects {
	t.Helper()
	return &objects{Bucket: harness.StartBucket(t), sent: make(map[string]int)}
}

// front returns a URL of the server for clients, whose host is localhost or 127.0.0.1. An
// Authorization that arrives there fails the test. The certificate may be nil.
func (o *objects) front(t *testing.T, host string, certificate *tls.Certificate) string {
	t.Helper()
	target, err := url.Parse(o.URL)
	harness.Must(t, err)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // the signature holds for it
	}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Method != http.MethodGet {
			t.Errorf("the bucket got %s %s, with the login %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
		}
		counting := &counter{ResponseWriter: w}
		pass.ServeHTTP(counting, r)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.sent[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]] += counting.bytes
	}))
	if certificate == nil {
		server.Start()
	} else {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", host, 1)
}

type counter struct {
	http.ResponseWriter
	bytes int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += n
	return n, err
}

// sentOf returns the bytes of a blob that clients got from the server.
func (o *objects) sentOf(content []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent[harness.DescriptorOf("", content).Digest.Encoded()]
}

// config is the table of the bucket for the mirror of a way, which sends clients to a front.
func (o *objects) config(way, front string) string {
	return o.Config(fmt.Sprintf("key_prefix = %q\nredirect_endpoint = %q", way, front))
}

// fill pushes an image to a repository, pulls it through the mirror of a way, and waits until
// it is in the bucket. Its first layer is large enough for a redirect.
func (o *objects) fill(t *testing.T, m *mirror, way, repository string) *harness.Image {
	t.Helper()
	image := harness.NewImage(t, 1<<20+1000, 10)
	m.push().PushImage(t, repository, "1", image)
	for _, content := range append([][]byte{image.Config}, image.Layers...) {
		dgst := harness.DescriptorOf("", content).Digest
		if answer := m.Get(t, "/v2/"+repository+"/blobs/"+dgst.String(), "Authorization", basic); answer.Status != http.StatusOK {
			t.Fatalf("%s of %s: %d %s", dgst, repository, answer.Status, answer.Body)
		}
		harness.Eventually(t, "the content is in the bucket", func() bool {
			_, err := os.Stat(filepath.Join(o.Dir, way, "blobs/sha256", dgst.Encoded()[:2], dgst.Encoded()))
			return err == nil
		})
	}
	return image
}

// expectRedirected runs a pull, and fails the test unless the large layer came from the
// bucket and the small one from the mirror.
func (o *objects) expectRedirected(t *testing.T, image *harness.Image, pull func()) {
	t.Helper()
	pull()
	large, small := image.Layers[0], image.Layers[1]
	// The client has all bytes before the front has counted them.
	if !harness.Within(harness.Patience, func() bool { return o.sentOf(large) >= len(large) }) {
		t.Errorf("the bucket sent %d bytes of %d", o.sentOf(large), len(large))
	}
	if sent := o.sentOf(small); sent != 0 {
		t.Errorf("the bucket sent %d bytes of a small layer", sent)
	}
}

// basic is the login of alice in a header.
const basic = "Basic YWxpY2U6c2VjcmV0"

// Clients follow the mirror to a real server of an object store, and get the bytes of layers
// from there: without a login, with one, and over TLS. No login travels on. A client that would
// send its login along, since the bucket's host is that of the mirror, gets the bytes from
// the mirror, and so does crane if the bucket has an address for a name.
func TestRedirects(t *testing.T) {
	testutil.Long(t, "has six clients pull from a bucket, in three ways")
	o := startObjects(t)
	t.Run("plain", o.testPlain)
	t.Run("login", o.testLogin)
	t.Run("TLS", o.testTLS)
	t.Run("address", o.testAddress)
}

func (o *objects) testPlain(t *testing.T) {
	m := startMirrorWith(t, o.config("plain", o.front(t, "localhost", nil)))
	for name, start := range map[string]client{"docker": docker, "containerd": containerd, "podman": podman, "skopeo": skopeo, "crane": crane, "oras": oras} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pull, repository := start(t, m), "docker.io/org/"+name
			image := o.fill(t, m, "plain", repository)
			o.expectRedirected(t, image, func() { pull(t, repository+":1", image) })
		})
	}
}

func (o *objects) testLogin(t *testing.T) {
	m := &locked{mirror: startMirrorFor(t, users(false, "alice")+o.config("login", o.front(t, "localhost", nil)), "@team")}
	_, port, _ := strings.Cut(m.Addr, ":")
	clients := loginClients()
	for _, name := range []string{"docker", "containerd", "podman", "skopeo", "crane", "oras"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			away, beside := &locked{m.mirror, "127.0.0.1:" + port}, &locked{m.mirror, "localhost:" + port}
			repository := "ghcr.io/org/" + name
			image := o.fill(t, m.mirror, "login", repository)
			pull := func(m *locked) {
				t.Helper()
				dir := t.TempDir()
				run := clients[name].program(t, m, m.files(t, name, credentials{"alice", "secret"}))
				harness.Run(t, run(clients[name].pull(m.host+"/"+repository+":1", dir)...))
				if name == "skopeo" || name == "crane" || name == "oras" {
					expectLayout(t, dir, image)
				}
			}
			pull(beside)
			if sent := o.sentOf(image.Layers[0]); sent != 0 {
				t.Errorf("the bucket at the mirror's own host sent %d bytes", sent)
			}
			o.expectRedirected(t, image, func() { pull(away) })
		})
	}
}

func (o *objects) testTLS(t *testing.T) {
	authority := testutil.NewAuthority(t)
	bundle, key := authority.IssueAs("server", time.Now().AddDate(1, 0, 0), withIPv6)
	certificate, err := tls.LoadX509KeyPair(bundle, key)
	harness.Must(t, err)
	m := startMirrorWith(t, o.config("tls", o.front(t, "localhost", &certificate))+
		fmt.Sprintf("[server]\nbind_address = \"::\"\n[server.tls]\nserver_certificate_bundle = %q\nserver_private_key = %q\n", bundle, key))
	m.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}}}
	for name, pull := range map[string]tlsClient{
		"docker": dockerOverTLS, "containerd": containerdOverTLS, "podman": podmanOverTLS, "skopeo": skopeoOverTLS, "crane": craneOverTLS, "oras": orasOverTLS,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// dockerd verifies no certificate in 127.0.0.0/8. Other clients know no names of
			// images with an address of IPv6.
			host := "127.0.0.1"
			if name == "docker" {
				host = "[::1]"
			}
			at := m.at(host)
			repository := "docker.io/org/" + name
			image := o.fill(t, at, "tls", repository)
			files := t.TempDir()
			harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(t), "client-config", strings.Replace(name, "skopeo", "podman", 1),
				"--config", at.Config, "--url", at.URL, "--dir", files, "--ca", authority.File()))
			o.expectRedirected(t, image, func() { pull(t, at, files, repository+":1", image) })
		})
	}
}

func (o *objects) testAddress(t *testing.T) {
	m := startMirrorWith(t, o.config("address", o.front(t, "127.0.0.1", nil)))
	m.Addr = strings.Replace(m.Addr, "127.0.0.1", "localhost", 1)
	repository := "docker.io/org/app"
	image := o.fill(t, m, "address", repository)
	crane(t, m)(t, repository+":1", image)
	if sent := o.sentOf(image.Layers[0]); sent != 0 {
		t.Errorf("crane was sent to an address, from where it got %d bytes", sent)
	}
	o.expectRedirected(t, image, func() { skopeoNamed(t, m)(t, repository+":1", image) })
}

// at is the mirror under another name of its host.
func (m *mirror) at(host string) *mirror {
	renamed, weir := *m, *m.Weir
	port := weir.Addr[strings.LastIndex(weir.Addr, ":"):]
	weir.Addr, weir.URL = host+port, "https://"+host+port
	renamed.Weir = &weir
	return &renamed
}

func orasOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	dir := t.TempDir()
	harness.Run(t, m.command(t, harness.Tool(t, "clients", "oras"), "copy", "--from-ca-file", filepath.Join(files, "etc/weir/mirror/ca.crt"),
		"--platform", "linux/amd64", m.Addr+"/"+name, "--to-oci-layout", dir+":it"))
	expectLayout(t, dir, want)
}
