package clients

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// tlsClient pulls an image by its name from a mirror with TLS, with the files that weir
// client-config has written below a directory.
type tlsClient func(t *testing.T, m *mirror, files, name string, want *harness.Image)

// Clients pull over TLS with the files of weir client-config: they trust the mirror's
// private authority, and show a certificate where the mirror requires one, which is the
// identity that may pull there.
func TestPullsOverTLS(t *testing.T) {
	testutil.Long(t, "pulls with five clients")
	for name, c := range map[string]struct {
		pull tlsClient
		show bool // it can show a certificate
	}{
		"docker": {dockerOverTLS, true}, "containerd": {containerdOverTLS, true}, "podman": {podmanOverTLS, true}, "skopeo": {skopeoOverTLS, true}, "crane": {craneOverTLS, false},
	} {
		for _, auth := range []string{"optional", "required"} {
			if auth == "required" && !c.show {
				continue
			}
			t.Run(name+", "+auth, func(t *testing.T) {
				authority := testutil.NewAuthority(t)
				server, key := authority.IssueAs("server", time.Now().AddDate(1, 0, 0), withIPv6)
				// dockerd verifies no certificate in 127.0.0.0/8. Other clients know no names of
				// images with an address of IPv6.
				address := "127.0.0.1"
				if name == "docker" {
					address = "::1"
				}
				config := fmt.Sprintf("[server]\nbind_address = %q\n[server.tls]\nserver_certificate_bundle = %q\nserver_private_key = %q\nclient_ca_bundle = %q\nclient_auth = %q\n",
					address, server, key, authority.File(), auth)
				if auth == "required" { // the certificate is the identity of the client, and alone may pull
					config += "[access_policy]\ndefault = \"deny\"\nrules = [\"'client' in identity.certificate.common_names\"]\n"
				}
				m := startMirrorWith(t, config)
				image := harness.NewImage(t, 500_000, 10)
				m.push().PushImage(t, "docker.io/org/app", "1.2", image)
				args := []string{"--ca", authority.File()}
				if auth == "required" {
					certificate, key := authority.Issue("client", time.Now().AddDate(1, 0, 0))
					args = append(args, "--client-cert", certificate, "--client-key", key)
				}
				kind := strings.NewReplacer("skopeo", "podman").Replace(name)
				files := t.TempDir()
				harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(t),
					append([]string{"client-config", kind, "--config", m.Config, "--url", m.URL, "--dir", files}, args...)...))
				c.pull(t, m, files, "docker.io/org/app:1.2", image)
				if gets(m.asked("docker.io/org/app"), "blobs/") == 0 {
					t.Error("it did not pull through the mirror")
				}
			})
		}
	}
}

// An engine whose certificate may not pull is answered 403 by the mirror, which asks no
// registry for it.
func TestCertificateThatMayNotPull(t *testing.T) {
	testutil.Long(t, "starts two engines")
	for name, pull := range map[string]func(t *testing.T, m *mirror, files, image string) *exec.Cmd{
		"docker": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			return startDockerWith(t, m, files).Command("pull", image)
		},
		"containerd": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			return startContainerd(t, m)("images", "pull", "--hosts-dir", filepath.Join(files, "etc/containerd/certs.d"), "--platform", "linux/amd64", image)
		},
	} {
		t.Run(name, func(t *testing.T) {
			authority := testutil.NewAuthority(t)
			server, key := authority.IssueAs("server", time.Now().AddDate(1, 0, 0), withIPv6)
			address := "127.0.0.1"
			if name == "docker" { // as above
				address = "::1"
			}
			m := startMirrorWith(t, fmt.Sprintf("[server]\nbind_address = %q\n[server.tls]\nserver_certificate_bundle = %q\nserver_private_key = %q\nclient_ca_bundle = %q\nclient_auth = \"required\"\n"+
				"[access_policy]\ndefault = \"deny\"\nrules = [\"'node-1' in identity.certificate.common_names\"]\n", address, server, key, authority.File()))
			// A refused engine tries the registry itself, and is refused there too.
			proxy := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(proxy.Close)
			m.env = []string{"HTTP_PROXY=" + proxy.URL, "HTTPS_PROXY=" + proxy.URL, "NO_PROXY="}
			m.push().PushImage(t, "docker.io/org/app", "1.2", harness.NewImage(t, 10_000, 10))
			certificate, key := authority.Issue("guest", time.Now().AddDate(1, 0, 0))
			files := t.TempDir()
			harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(t), "client-config", name, "--config", m.Config, "--url", m.URL, "--dir", files,
				"--ca", authority.File(), "--client-cert", certificate, "--client-key", key))
			if out, err := pull(t, m, files, "docker.io/org/app:1.2").CombinedOutput(); err == nil {
				t.Errorf("it has pulled: %s", out)
			}
			m.Logs(t, `"user":"cert:guest"`, `"status":403`)
			if asked := m.asked("docker.io/org/app"); len(asked) > 0 {
				t.Errorf("the refused pull has asked the upstream: %v", asked)
			}
		})
	}
}

func dockerOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	startDockerWith(t, m, files).Pull(name, want.ID())
}

// startDockerWith runs an engine that has the certificates in the directory of the machine,
// since dockerd knows no other.
func startDockerWith(t *testing.T, m *mirror, files string) *harness.Docker {
	config, err := os.ReadFile(filepath.Join(files, "etc/docker/daemon.json"))
	harness.Must(t, err)
	const certs = "etc/docker/certs.d"
	at := filepath.Join("/", certs, m.Addr)
	harness.Must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	t.Cleanup(func() { os.RemoveAll(at) })
	harness.Must(t, os.CopyFS(at, os.DirFS(filepath.Join(files, certs, m.Addr))))
	return harness.StartDocker(t, string(config), m.env...)
}

func containerdOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	containerdWith(t, m, filepath.Join(files, "etc/containerd/certs.d"))(t, name, want)
}

func podmanOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	intoStorageWith(t, m, "podman", filepath.Join(files, "etc/containers/registries.conf.d/weir.conf"), homeWith(t, files))(t, name, want)
}

func skopeoOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	m.env = append(m.env, "HOME="+homeWith(t, files))
	skopeoWith(t, m, "", "--registries-conf", filepath.Join(files, "etc/containers/registries.conf.d/weir.conf"), "copy")(t, name, want)
}

// homeWith returns a home whose own directory of certificates is that of the files.
func homeWith(t *testing.T, files string) string {
	t.Helper()
	home := t.TempDir()
	harness.Must(t, os.MkdirAll(filepath.Join(home, ".config/containers"), 0o755))
	harness.Must(t, os.CopyFS(filepath.Join(home, ".config/containers/certs.d"), os.DirFS(filepath.Join(files, "etc/containers/certs.d"))))
	return home
}

func craneOverTLS(t *testing.T, m *mirror, files, name string, want *harness.Image) {
	path, dir := harness.Tool(t, "clients", "crane"), t.TempDir()
	cmd := m.command(t, path, "pull", "--platform", "linux/amd64", "--format", "oci", m.Addr+"/"+name, dir)
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+filepath.Join(files, "etc/weir/mirror/ca.crt"))
	harness.Run(t, cmd)
	expectLayout(t, dir, want)
}

func withIPv6(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv6loopback) }
