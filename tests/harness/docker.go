package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Docker is a Docker Engine of the test's own.
type Docker struct {
	t      *testing.T
	Socket string // unix://path
	binary string
}

// StartDocker runs an engine with the given daemon.json until the test ends. It
// needs no network of its own and can pull from loopback addresses only.
func StartDocker(t *testing.T, config string, env ...string) *Docker {
	t.Helper()
	dockerd := testutil.Program(t, "dockerd", "docker.io")
	d := &Docker{t: t, binary: testutil.Program(t, "docker", "docker.io")}
	testutil.Root(t)
	dir := SocketDir(t, "dockerd-")
	// An engine leaves these mounted when it ends: the first one always, the
	// second one if / is a bind mount, as it is in some containers.
	t.Cleanup(func() {
		for _, path := range []string{"exec/netns/default", "data"} {
			_ = syscall.Unmount(filepath.Join(dir, path), syscall.MNT_DETACH)
		}
	})
	d.Socket = "unix://" + filepath.Join(dir, "sock")
	file := filepath.Join(dir, "daemon.json")
	WriteFile(t, file, config)
	engine := exec.CommandContext(t.Context(), dockerd, "--config-file", file, "--host", d.Socket,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip-masq=false", "--storage-driver", "vfs")
	engine.Env = append(os.Environ(), env...)
	StartDaemon(t, engine)
	Eventually(t, "the Docker Engine answers", func() bool { return d.Command("version").Run() == nil })
	return d
}

// Command is the docker program, told to use this engine.
func (d *Docker) Command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), d.binary, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.Socket, "DOCKER_BUILDKIT=0")
	return cmd
}

// Pull pulls an image, checks its ID and removes it from the engine.
func (d *Docker) Pull(name, id string) {
	d.t.Helper()
	Run(d.t, d.Command("pull", "--quiet", name))
	if got := strings.TrimSpace(Run(d.t, d.Command("image", "inspect", "--format", "{{.Id}}", name))); got != id {
		d.t.Errorf("%s has ID %s, want %s", name, got, id)
	}
	Run(d.t, d.Command("rmi", "--force", id))
}
