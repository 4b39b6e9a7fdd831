package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// showing returns the pull of a client that shows the certificate in its files.
type showing func(t *testing.T, m *mirror, files, image string) *exec.Cmd

// showClients are the clients that can show a certificate to the mirror that they name. crane
// cannot, and docker and containerd are in [TestPullsOverTLS].
func showClients() map[string]showing {
	const registries = "etc/containers/registries.conf.d/weir.conf"
	flags := func(files, prefix string) []string {
		dir := filepath.Join(files, "etc/weir/mirror")
		return []string{prefix + "ca-file", filepath.Join(dir, "ca.crt"), prefix + "cert-file", filepath.Join(dir, "client.cert"), prefix + "key-file", filepath.Join(dir, "client.key")}
	}
	return map[string]showing{
		"podman": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			path, home, place := testutil.Program(t, "podman", "podman"), homeWith(t, files), harness.SocketDir(t, "podman-")
			testutil.Root(t)
			harness.WriteFile(t, filepath.Join(home, ".config/containers/policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
			cmd := m.command(t, path, "--root", filepath.Join(place, "root"), "--runroot", filepath.Join(place, "run"), "--storage-driver", "vfs", "pull", "--quiet", "--arch", "amd64", image)
			cmd.Env = append(cmd.Env, "HOME="+home, "CONTAINERS_REGISTRIES_CONF="+filepath.Join(files, registries))
			return cmd
		},
		"skopeo": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			cmd := m.command(t, testutil.Program(t, "skopeo", "skopeo"), "copy", "--override-arch", "amd64", "docker://"+image, "oci:"+t.TempDir()+":it")
			cmd.Env = append(cmd.Env, "HOME="+homeWith(t, files), "CONTAINERS_REGISTRIES_CONF="+filepath.Join(files, registries))
			return cmd
		},
		"oras": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			args := append([]string{"copy", "--platform", "linux/amd64"}, flags(files, "--from-")...)
			return m.command(t, harness.Tool(t, "clients", "oras"), append(args, image, "--to-oci-layout", t.TempDir()+":it")...)
		},
		"helm": func(t *testing.T, m *mirror, files, _ string) *exec.Cmd {
			args := append([]string{"pull", "--destination", t.TempDir(), "--version", "1.2.3"}, flags(files, "--")...)
			cmd := m.command(t, harness.Tool(t, "helm", "helm"), append(args, "oci://"+m.Addr+"/ghcr.io/org/charts/app")...)
			cmd.Env = append(cmd.Env, "HOME="+t.TempDir())
			return cmd
		},
		"regctl": func(t *testing.T, m *mirror, files, image string) *exec.Cmd {
			path, config := harness.Tool(t, "clients", "regctl"), "REGCTL_CONFIG="+filepath.Join(t.TempDir(), "config.json")
			read := func(name string) string {
				content, err := os.ReadFile(filepath.Join(files, "etc/weir/mirror", name))
				harness.Must(t, err)
				return string(content)
			}
			set := m.command(t, path, "registry", "set", "--skip-check", "--cacert", read("ca.crt"), "--client-cert", read("client.cert"), "--client-key", read("client.key"), m.Addr)
			set.Env = append(set.Env, config)
			harness.Run(t, set)
			cmd := m.command(t, path, "image", "copy", "--platform", "linux/amd64", image, "ocidir://"+t.TempDir()+":it")
			cmd.Env = append(cmd.Env, config)
			return cmd
		},
	}
}

// pushChart pushes a chart to the registry behind the mirror.
func (m *mirror) pushChart(t *testing.T) {
	t.Helper()
	path, dir := harness.Tool(t, "helm", "helm"), t.TempDir()
	for _, args := range [][]string{{"create", "app"}, {"package", "app", "--version", "1.2.3"}, {"push", "--plain-http", "app-1.2.3.tgz", "oci://" + m.upstream.Addr + "/ghcr.io/org/charts"}} {
		cmd := m.command(t, path, args...)
		cmd.Dir, cmd.Env = dir, append(cmd.Env, "HOME="+dir)
		harness.Run(t, cmd)
	}
}

// A certificate in the files of weir client-config is the identity of its client: one that
// allow names pulls, and another one of the same authority is answered 403, whether the
// mirror requires certificates or not.
func TestCertificateLogins(t *testing.T) {
	testutil.Long(t, "pulls with five clients that show certificates")
	for name, pull := range showClients() {
		for _, auth := range []string{"optional", "required"} {
			t.Run(name+"/"+auth, func(t *testing.T) {
				t.Parallel()
				authority := testutil.NewAuthority(t)
				server, key := authority.Issue("server", time.Now().AddDate(1, 0, 0))
				m := startMirrorFor(t, fmt.Sprintf("[server.tls]\nserver_certificate_bundle = %q\nserver_private_key = %q\nclient_ca_bundle = %q\nclient_auth = %q\n",
					server, key, authority.File(), auth), "cert:node-*")
				if name == "helm" {
					m.pushChart(t)
				}
				m.push().PushImage(t, "ghcr.io/org/app", "1", harness.NewImage(t, 10_000, 10))
				for holder, want := range map[string]bool{"node-1": true, "guest": false} {
					certificate, key := authority.Issue(holder, time.Now().AddDate(1, 0, 0))
					files := t.TempDir()
					harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(t), "client-config", name, "--config", m.Config, "--url", m.URL, "--dir", files,
						"--ca", authority.File(), "--client-cert", certificate, "--client-key", key))
					out, err := pull(t, m, files, m.Addr+"/ghcr.io/org/app:1").CombinedOutput()
					if (err == nil) != want {
						t.Errorf("%s: %v, %s", holder, err, out)
					}
					text := strings.ToLower(string(out))
					if !want && !strings.Contains(text, "denied") && !strings.Contains(text, "403") {
						t.Errorf("%s: the client does not show the refusal: %s", holder, out)
					}
				}
				m.Logs(t, `"user":"cert:node-1"`, `"status":200`)
				m.Logs(t, `"user":"cert:guest"`, `"status":403`)
			})
		}
	}
}
