package clients

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// locked is a mirror that wants a login. Its host is localhost: crane asks no token service
// at 127.0.0.1.
type locked struct {
	*mirror
	host string // localhost:port
}

// credentials are a user and a password that a client has from its files.
type credentials struct{ user, password string }

// loggedIn is a client with the files that weir client-config writes for it and a login.
type loggedIn struct {
	client  string // of weir client-config
	program func(t *testing.T, m *locked, files string) func(args ...string) *exec.Cmd
	pull    func(name, out string) []string // arguments
	login   []string                        // arguments before the mirror's host, with -u and the password on standard input; nil: it has no such command
}

func loginClients() map[string]loggedIn {
	// Most clients find the login in the home of root.
	at := func(tool func(t *testing.T) string, env ...string) func(*testing.T, *locked, string) func(...string) *exec.Cmd {
		return func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			path := tool(t)
			return func(args ...string) *exec.Cmd {
				cmd := m.command(t, path, args...)
				cmd.Env = append(cmd.Env, "HOME="+filepath.Join(files, "root"), "XDG_RUNTIME_DIR="+filepath.Join(files, "run"), "XDG_CONFIG_HOME=", "DOCKER_CONFIG=")
				for _, e := range env {
					cmd.Env = append(cmd.Env, strings.ReplaceAll(e, "FILES", files))
				}
				return cmd
			}
		}
	}
	built := func(name string) func(t *testing.T) string {
		return func(t *testing.T) string { return harness.Tool(t, "clients", name) }
	}
	installed := func(name string) func(t *testing.T) string {
		return func(t *testing.T) string {
			if name == "podman" {
				testutil.Root(t)
			}
			return testutil.Program(t, name, name)
		}
	}
	const registries = "CONTAINERS_REGISTRIES_CONF=FILES/etc/containers/registries.conf.d/weir.conf"
	return map[string]loggedIn{
		"crane": {"crane", at(built("crane")), func(name, out string) []string {
			return []string{"pull", "--insecure", "--platform", "linux/amd64", "--format", "oci", name, out}
		}, []string{"auth", "login", "--insecure", "--password-stdin"}},
		"oras": {"oras", at(built("oras")), func(name, out string) []string {
			return []string{"copy", "--from-plain-http", "--platform", "linux/amd64", name, "--to-oci-layout", out + ":it"}
		}, []string{"login", "--plain-http", "--password-stdin"}},
		"helm": {"helm", func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			m.pushChart(t)
			return at(func(t *testing.T) string { return harness.Tool(t, "helm", "helm") })(t, m, files)
		}, func(name, out string) []string {
			host, _, _ := strings.Cut(name, "/")
			return []string{"pull", "--plain-http", "--destination", out, "oci://" + host + "/ghcr.io/org/charts/app", "--version", "1.2.3"}
		}, []string{"registry", "login", "--plain-http", "--password-stdin"}},
		"regctl": {"regctl", func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			command := at(built("regctl"))(t, m, files)
			harness.Run(t, command("registry", "set", "--skip-check", "--tls", "disabled", m.host))
			return command
		}, func(name, out string) []string {
			return []string{"image", "copy", "--platform", "linux/amd64", name, "ocidir://" + out + ":it"}
		}, []string{"registry", "login", "--pass-stdin"}},
		"skopeo": {"skopeo", at(installed("skopeo"), registries), func(name, out string) []string {
			return []string{"copy", "--override-arch", "amd64", "--src-tls-verify=false", "docker://" + name, "oci:" + out + ":it"}
		}, []string{"login", "--tls-verify=false", "--password-stdin"}},
		"podman": {"podman", func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			command, dir := at(installed("podman"), registries)(t, m, files), t.TempDir()
			harness.WriteFile(t, filepath.Join(files, "root/.config/containers/policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
			return func(args ...string) *exec.Cmd {
				return command(append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
			}
		}, func(name, _ string) []string {
			return []string{"pull", "--quiet", "--arch", "amd64", name}
		}, []string{"login", "--tls-verify=false", "--password-stdin"}},
		"containerd": {"containerd", func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			command := startContainerd(t, m.mirror)
			return func(args ...string) *exec.Cmd {
				return command(append(args[:2:2], append([]string{"--hosts-dir", filepath.Join(files, "etc/containerd/certs.d")}, args[2:]...)...)...)
			}
		}, func(name, _ string) []string {
			return []string{"images", "pull", "--platform", "linux/amd64", "--snapshotter", "native", name}
		}, nil},
		"docker": {"docker", func(t *testing.T, m *locked, files string) func(...string) *exec.Cmd {
			config, err := os.ReadFile(filepath.Join(files, "etc/docker/daemon.json"))
			harness.Must(t, err)
			engine := harness.StartDocker(t, string(config), m.env...)
			return func(args ...string) *exec.Cmd {
				cmd := engine.Command(args...)
				cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+filepath.Join(files, "root/.docker"))
				return cmd
			}
		}, func(name, _ string) []string { return []string{"pull", "--quiet", name} }, []string{"login", "--password-stdin"}},
	}
}

// startLocked runs a mirror that wants a login, with a token service or without.
func startLocked(t *testing.T, tokens bool) *locked {
	m := &locked{mirror: startMirrorFor(t, users(tokens, "alice"), "@team")}
	_, port, _ := strings.Cut(m.Addr, ":")
	m.host = "localhost:" + port
	return m
}

// users returns the tables of users whose password is "secret". The given ones may pull
// from ghcr.io. Dave may not, and eve has expired.
func users(tokens bool, team ...string) string {
	const hash = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"
	text := fmt.Sprintf("[auth]\ngroups = { team = [\"eve\", \"%s\"] }\n", strings.Join(team, `", "`))
	if tokens {
		text += "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
	}
	for _, user := range append(team, "dave", "eve") {
		text += fmt.Sprintf("[auth.identity.%[1]s]\nusername = %[1]q\npassword = %[2]q\n", user, hash)
	}
	return text + "expires = \"2020-01-01\"\n"
}

// replaceAlice removes alice from the users, and adds bob.
func (m *locked) replaceAlice(t *testing.T, tokens bool) {
	t.Helper()
	config, err := os.ReadFile(m.Config)
	harness.Must(t, err)
	_, blocks, _ := strings.Cut(string(config), "[repository.")
	harness.WriteFile(t, m.Config, users(tokens, "bob")+"[repository."+blocks)
	harness.Eventually(t, "the user is removed", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.URL+"/v2/", nil)
		harness.Must(t, err)
		req.SetBasicAuth("alice", "secret")
		resp, err := http.DefaultClient.Do(req)
		harness.Must(t, err)
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
}

// files returns the directory of a client's files with a login.
func (m *locked) files(t *testing.T, client string, as credentials) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "client-config", client, "--config", m.Config, "--url", "http://"+m.host, "--dir", dir, "--username", as.user)
	cmd.Env = append(os.Environ(), "WEIR_CLIENT_PASSWORD="+as.password)
	harness.Run(t, cmd)
	harness.Must(t, os.Mkdir(filepath.Join(dir, "run"), 0o700))
	return dir
}

// Clients pull with the login in the files of weir client-config, and by their own login,
// with a token service and without. A wrong password, an unknown user, and users who have
// expired or were removed are refused.
func TestLogins(t *testing.T) {
	testutil.Long(t, "logs eight clients in, with and without a token service")
	for name, client := range loginClients() {
		for way, tokens := range map[string]bool{"basic": false, "token": true} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				m := startLocked(t, tokens)
				m.push().PushImage(t, "ghcr.io/org/app", "1", harness.NewImage(t, 10_000, 10))
				image := m.host + "/ghcr.io/org/app:1"
				pulls := func(label string, run func(...string) *exec.Cmd, want bool) {
					t.Helper()
					out, err := run(client.pull(image, t.TempDir())...).CombinedOutput()
					if (err == nil) != want {
						t.Errorf("%s: %v, %s", label, err, out)
					}
				}
				for label, c := range map[string]struct {
					credentials
					want bool
				}{
					"a login": {credentials{"alice", "secret"}, true}, "a wrong password": {credentials{"alice", "guess"}, false},
					"an expired user": {credentials{"eve", "secret"}, false}, "an unknown user": {credentials{"mallory", "secret"}, false},
				} {
					files := m.files(t, client.client, c.credentials)
					run := client.program(t, m, files)
					pulls(label, run, c.want)
					if client.login == nil {
						continue
					}
					login := run(append(client.login, "-u", c.user, m.host)...)
					login.Stdin = strings.NewReader(c.password)
					// crane does not ask the registry.
					if out, err := login.CombinedOutput(); (err == nil) != c.want && name != "crane" {
						t.Errorf("login with %s: %v, %s", label, err, out)
					}
				}
				m.denies(t, client, image)
				run := client.program(t, m, m.files(t, client.client, credentials{"alice", "secret"}))
				pulls("before the user is removed", run, true)
				m.replaceAlice(t, tokens)
				pulls("after the user is removed", run, false)
			})
		}
	}
}

// denies pulls as dave, who may log in but not pull. The client shows the refusal and does
// not log in again.
func (m *locked) denies(t *testing.T, client loggedIn, image string) {
	t.Helper()
	run := client.program(t, m, m.files(t, client.client, credentials{"dave", "secret"}))
	if client.login != nil {
		login := run(append(client.login, "-u", "dave", m.host)...)
		login.Stdin = strings.NewReader("secret")
		harness.Run(t, login)
	}
	before := len(m.Log.String())
	out, err := run(client.pull(image, t.TempDir())...).CombinedOutput()
	reason := "dave may not pull from ghcr.io"
	// containerd asks with HEAD, whose answer has no reason.
	if client.client == "containerd" {
		reason = "403 Forbidden"
	}
	if err == nil || !strings.Contains(string(out), reason) {
		t.Errorf("a user who may not pull: %v, %s, want %q", err, out, reason)
	}
	var after string
	harness.Eventually(t, "the refusal is in the mirror's log", func() (found bool) {
		_, after, found = strings.Cut(m.Log.String()[before:], `"status":403`)
		return found
	})
	// containerd continues with the server of hosts.toml, which is the mirror again, and has
	// no login for it.
	if client.client != "containerd" && (strings.Contains(after, `"status":401`) || strings.Contains(after, `"operation":"token"`)) {
		t.Errorf("the client logs in again after the refusal: %s", after)
	}
}

// Clients log in with accounts of the registry behind the mirror, which judges them there,
// with cold and with cached content, until an account is removed.
func TestUpstreamLogins(t *testing.T) {
	testutil.Long(t, "logs eight clients in")
	for name, client := range loginClients() {
		if name == "helm" {
			continue // its chart is in another block
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			accounts := filepath.Join(t.TempDir(), "htpasswd")
			// The passwords are "secret".
			const hash = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"
			harness.WriteFile(t, accounts, "alice:"+hash+"\nbob:"+hash+"\n")
			registry := harness.StartDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: registry, path: %q}}", accounts))
			pusher := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + registry.Addr, Username: "alice", Password: "secret"}
			pusher.PushImage(t, "org/app", "1", harness.NewImage(t, 10_000, 10))
			m := &locked{mirror: startMirrorWith(t, fmt.Sprintf(
				"[repository.private]\nauthorize = \"upstream\"\nauth_check_ttl = \"1s\"\n[[repository.private.upstream]]\nurl = \"http://%s\"\n", registry.Addr))}
			_, port, _ := strings.Cut(m.Addr, ":")
			m.host = "localhost:" + port
			image := m.host + "/private/org/app:1"
			pull := func(c credentials, want bool) {
				t.Helper()
				run := client.program(t, m, m.files(t, client.client, c))
				if out, err := run(client.pull(image, t.TempDir())...).CombinedOutput(); (err == nil) != want {
					t.Errorf("%s with %q: %v, %s", c.user, c.password, err, out)
				}
				if client.login == nil {
					return
				}
				login := run(append(client.login, "-u", c.user, m.host)...)
				login.Stdin = strings.NewReader(c.password)
				// crane does not ask the registry.
				if out, err := login.CombinedOutput(); (err == nil) != want && name != "crane" {
					t.Errorf("login of %s with %q: %v, %s", c.user, c.password, err, out)
				}
			}
			pull(credentials{"alice", "guess"}, false)
			pull(credentials{"alice", "secret"}, true)
			pull(credentials{"bob", "secret"}, true) // from the cache
			pull(credentials{"mallory", "secret"}, false)
			harness.WriteFile(t, accounts, "alice:"+hash+"\n")
			// A refused account is refused for a verdict's time at most.
			harness.Eventually(t, "the account is removed", func() bool {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.URL+"/v2/private/org/app/manifests/1", nil)
				harness.Must(t, err)
				req.SetBasicAuth("bob", "secret")
				resp, err := http.DefaultClient.Do(req)
				harness.Must(t, err)
				defer resp.Body.Close()
				return resp.StatusCode == http.StatusUnauthorized
			})
			pull(credentials{"bob", "secret"}, false)
			pull(credentials{"alice", "secret"}, true)
		})
	}
}
