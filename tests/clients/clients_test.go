package clients

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tests/require"
)

// mirrored is a mirror of a real registry that holds an image under the same
// name for Docker Hub and ghcr.io. The mirror takes both for its own upstream,
// so a client that bypassed it would find nothing.
type mirrored struct {
	*harness.Weir
	registry *harness.Distribution
	image    *harness.Image
}

func startMirrored(t *testing.T) *mirrored {
	t.Helper()
	d := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	m := &mirrored{registry: d, image: harness.NewImage(t, 2<<20, 100_000, 10)}
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr}
	push.PushIndex(t, "org/app", "1.2", map[string]*harness.Image{"amd64": m.image, "arm64": harness.NewImage(t, 1000)})
	m.Weir = harness.StartWeir(t, fmt.Sprintf(`
[repository."docker.io"]
default = true
[[repository."docker.io".upstream]]
url = "http://%[1]s"
[[repository."ghcr.io".upstream]]
url = "http://%[1]s"
`, d.Addr))
	return m
}

// coldThenWarm pulls twice. The first pull fetches each content once; the
// second one's requests upstream are HEADs, for the tag.
func (m *mirrored) coldThenWarm(t *testing.T, pull func(t *testing.T)) {
	t.Helper()
	pull(t)
	harness.Eventually(t, "all is stored", func() bool { return m.Metric(t, "weir_flights") == 0 })
	contents := 2 + 1 + len(m.image.Layers) // index and manifest, config, layers
	if got := m.registry.Served("GET", "/org/app/"); got != contents {
		t.Errorf("the cold pull caused %d GETs upstream, want %d\n%s", got, contents, m.registry.Log)
	}
	pull(t)
	if got := m.registry.Served("GET", "/org/app/"); got != contents {
		t.Errorf("the warm pull caused %d GETs upstream, want none\n%s", got-contents, m.registry.Log)
	}
	if served := m.Metric(t, "weir_requests_total", "operation", "blob", "cache", "hit"); served < float64(1+len(m.image.Layers)) {
		t.Errorf("%v blobs came from the cache, want all of the warm pull", served)
	}
}

func TestSkopeo(t *testing.T) {
	skopeo := require.Program(t, "skopeo", "skopeo")
	m := startMirrored(t)
	for _, name := range []string{"org/app", "docker.io/org/app"} {
		m.coldThenWarm(t, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image")
			harness.Must(t, os.RemoveAll(out))
			harness.Run(t, exec.CommandContext(t.Context(), skopeo, "copy", "--override-arch", "amd64", "--src-tls-verify=false",
				"docker://"+m.Addr+"/"+name+":1.2", "dir:"+out))
			manifest, err := os.ReadFile(filepath.Join(out, "manifest.json"))
			harness.Must(t, err)
			if string(manifest) != string(m.image.Manifest) {
				t.Errorf("skopeo wrote another manifest:\n%s", manifest)
			}
		})
	}
}

func TestPodman(t *testing.T) {
	podman := require.Program(t, "podman", "podman")
	require.Root(t)
	m := startMirrored(t)
	dir := t.TempDir()
	conf := filepath.Join(m.ClientConfig(t, "podman"), "etc/containers/registries.conf.d/weir.conf")
	policy := filepath.Join(dir, "policy.json")
	harness.WriteFile(t, policy, `{"default": [{"type": "insecureAcceptAnything"}]}`)
	storage := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	command := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), podman, append(storage, args...)...)
		cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf, "HOME="+dir)
		return harness.Run(t, cmd)
	}
	pull := func(name string) {
		t.Helper()
		command("pull", "--quiet", "--signature-policy", policy, "--arch", "amd64", name)
		if id := command("image", "inspect", "--format", "{{.Id}}", name); "sha256:"+strings.TrimSpace(id) != m.image.ID() {
			t.Errorf("%s has ID %s, want %s", name, id, m.image.ID())
		}
		command("rmi", "--all", "--force")
	}
	m.coldThenWarm(t, func(t *testing.T) { pull("docker.io/org/app:1.2") })
	pull("ghcr.io/org/app:1.2")
}

// Docker's own way to a mirror, for images of Docker Hub, and the mirror's
// address in the name for all others.
func TestDocker(t *testing.T) {
	m := startMirrored(t)
	config, err := os.ReadFile(filepath.Join(m.ClientConfig(t, "docker"), "etc/docker/daemon.json"))
	harness.Must(t, err)
	d := harness.StartDocker(t, string(config))
	m.coldThenWarm(t, func(t *testing.T) { d.Pull("org/app:1.2", m.image.ID()) })

	before := m.registry.Served("GET", "/org/app/blobs/")
	d.Pull(m.Addr+"/docker.io/org/app:1.2", m.image.ID())
	d.Pull(m.Addr+"/ghcr.io/org/app:1.2", m.image.ID())
	if got := m.registry.Served("GET", "/org/app/blobs/") - before; got != 0 {
		t.Errorf("the same content under other names was downloaded again, %d times", got)
	}
}

func TestContainerd(t *testing.T) {
	containerd := require.Program(t, "containerd", "containerd")
	ctr := require.Program(t, "ctr", "containerd")
	require.Root(t)
	m := startMirrored(t)
	dir := harness.SocketDir(t, "containerd-")
	hosts := filepath.Join(m.ClientConfig(t, "containerd"), "etc/containerd/certs.d")
	socket := filepath.Join(dir, "sock")
	config := filepath.Join(dir, "config.toml")
	harness.WriteFile(t, config, fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket))
	harness.StartDaemon(t, exec.CommandContext(t.Context(), containerd, "--config", config))
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), ctr, append([]string{"--address", socket}, args...)...)
	}
	harness.Eventually(t, "containerd answers", func() bool { return command("version").Run() == nil })
	pull := func(name string) {
		t.Helper()
		harness.Run(t, command("images", "pull", "--hosts-dir", hosts, "--platform", "linux/amd64", "--snapshotter", "native", name))
		if out := harness.Run(t, command("content", "ls", "--quiet")); !strings.Contains(out, m.image.ID()) {
			t.Errorf("%s: containerd has no config %s:\n%s", name, m.image.ID(), out)
		}
		harness.Run(t, command("images", "rm", "--sync", name))
	}
	m.coldThenWarm(t, func(t *testing.T) { pull("docker.io/org/app:1.2") })
	pull("ghcr.io/org/app:1.2")
	if m.Log.Count(`"repository":"ghcr.io/org/app"`, `"status":200`) == 0 {
		t.Error("the ns parameter did not lead to ghcr.io's block")
	}
}
