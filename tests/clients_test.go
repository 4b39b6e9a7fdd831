package tests

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/tests/require"
)

// mirrored is a mirror of a real registry that holds an image under the same
// name for Docker Hub and ghcr.io. The mirror takes both for its own upstream,
// so a client that bypassed it would find nothing.
type mirrored struct {
	*weir
	registry *distribution
	image    *image
}

func startMirrored(t *testing.T) *mirrored {
	t.Helper()
	d := startDistribution(t, http.DefaultClient, "http", "", "")
	m := &mirrored{registry: d, image: newImage(t, 2<<20, 100_000, 10)}
	push := &pusher{client: http.DefaultClient, base: "http://" + d.Addr}
	push.pushIndex(t, "org/app", "1.2", map[string]*image{"amd64": m.image, "arm64": newImage(t, 1000)})
	m.weir = startWeir(t, fmt.Sprintf(`
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
	eventually(t, "all is stored", func() bool { return m.metric(t, "weir_flights") == 0 })
	contents := 2 + 1 + len(m.image.Layers) // index and manifest, config, layers
	if got := m.registry.served("GET", "/org/app/"); got != contents {
		t.Errorf("the cold pull caused %d GETs upstream, want %d\n%s", got, contents, m.registry.log)
	}
	pull(t)
	if got := m.registry.served("GET", "/org/app/"); got != contents {
		t.Errorf("the warm pull caused %d GETs upstream, want none\n%s", got-contents, m.registry.log)
	}
	if served := m.metric(t, "weir_requests_total", "operation", "blob", "cache", "hit"); served < float64(1+len(m.image.Layers)) {
		t.Errorf("%v blobs came from the cache, want all of the warm pull", served)
	}
}

func TestSkopeo(t *testing.T) {
	skopeo := require.Program(t, "skopeo", "skopeo")
	m := startMirrored(t)
	for _, name := range []string{"org/app", "docker.io/org/app"} {
		m.coldThenWarm(t, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image")
			must(t, os.RemoveAll(out))
			run(t, exec.CommandContext(t.Context(), skopeo, "copy", "--override-arch", "amd64", "--src-tls-verify=false",
				"docker://"+m.Addr+"/"+name+":1.2", "dir:"+out))
			manifest, err := os.ReadFile(filepath.Join(out, "manifest.json"))
			must(t, err)
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
	conf := filepath.Join(m.clientConfig(t, "podman"), "etc/containers/registries.conf.d/weir.conf")
	policy := filepath.Join(dir, "policy.json")
	writeFile(t, policy, `{"default": [{"type": "insecureAcceptAnything"}]}`)
	storage := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	command := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), podman, append(storage, args...)...)
		cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf, "HOME="+dir)
		return run(t, cmd)
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

// docker is a Docker Engine of the test's own.
type docker struct {
	t      *testing.T
	socket string
	binary string
}

func startDocker(t *testing.T, config string) *docker {
	t.Helper()
	dockerd := require.Program(t, "dockerd", "docker.io")
	d := &docker{t: t, binary: require.Program(t, "docker", "docker.io")}
	require.Root(t)
	dir := socketDir(t, "dockerd-")
	// What an engine leaves mounted when it ends: the one always, the other
	// where / is a bind mount, as it is in some containers.
	t.Cleanup(func() {
		for _, path := range []string{"exec/netns/default", "data"} {
			_ = syscall.Unmount(filepath.Join(dir, path), syscall.MNT_DETACH)
		}
	})
	d.socket = "unix://" + filepath.Join(dir, "sock")
	file := filepath.Join(dir, "daemon.json")
	writeFile(t, file, config)
	startDaemon(t, exec.CommandContext(t.Context(), dockerd, "--config-file", file, "--host", d.socket,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip-masq=false", "--storage-driver", "vfs"))
	eventually(t, "the Docker Engine answers", func() bool { return d.command("version").Run() == nil })
	return d
}

func (d *docker) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), d.binary, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.socket, "DOCKER_BUILDKIT=0")
	return cmd
}

func (d *docker) pull(name, id string) {
	d.t.Helper()
	run(d.t, d.command("pull", "--quiet", name))
	if got := strings.TrimSpace(run(d.t, d.command("image", "inspect", "--format", "{{.Id}}", name))); got != id {
		d.t.Errorf("%s has ID %s, want %s", name, got, id)
	}
	run(d.t, d.command("rmi", "--force", id))
}

// Docker's own way to a mirror, for images of Docker Hub, and the mirror's
// address in the name for all others.
func TestDocker(t *testing.T) {
	m := startMirrored(t)
	config, err := os.ReadFile(filepath.Join(m.clientConfig(t, "docker"), "etc/docker/daemon.json"))
	must(t, err)
	d := startDocker(t, string(config))
	m.coldThenWarm(t, func(t *testing.T) { d.pull("org/app:1.2", m.image.ID()) })

	before := m.registry.served("GET", "/org/app/blobs/")
	d.pull(m.Addr+"/docker.io/org/app:1.2", m.image.ID())
	d.pull(m.Addr+"/ghcr.io/org/app:1.2", m.image.ID())
	if got := m.registry.served("GET", "/org/app/blobs/") - before; got != 0 {
		t.Errorf("the same content under other names was downloaded again, %d times", got)
	}
}

func TestContainerd(t *testing.T) {
	containerd := require.Program(t, "containerd", "containerd")
	ctr := require.Program(t, "ctr", "containerd")
	require.Root(t)
	m := startMirrored(t)
	dir := socketDir(t, "containerd-")
	hosts := filepath.Join(m.clientConfig(t, "containerd"), "etc/containerd/certs.d")
	socket := filepath.Join(dir, "sock")
	config := filepath.Join(dir, "config.toml")
	writeFile(t, config, fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket))
	startDaemon(t, exec.CommandContext(t.Context(), containerd, "--config", config))
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), ctr, append([]string{"--address", socket}, args...)...)
	}
	eventually(t, "containerd answers", func() bool { return command("version").Run() == nil })
	pull := func(name string) {
		t.Helper()
		run(t, command("images", "pull", "--hosts-dir", hosts, "--platform", "linux/amd64", "--snapshotter", "native", name))
		if out := run(t, command("content", "ls", "--quiet")); !strings.Contains(out, m.image.ID()) {
			t.Errorf("%s: containerd has no config %s:\n%s", name, m.image.ID(), out)
		}
		run(t, command("images", "rm", "--sync", name))
	}
	m.coldThenWarm(t, func(t *testing.T) { pull("docker.io/org/app:1.2") })
	pull("ghcr.io/org/app:1.2")
	if m.log.count(`"repository":"ghcr.io/org/app"`, `"status":200`) == 0 {
		t.Error("the ns parameter did not lead to ghcr.io's block")
	}
}
