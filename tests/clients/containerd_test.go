package clients

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// containerd pulls through ctr, which pulls as the kubelet has containerd pull:
// names stay, and the parameter ns tells the mirror the registry.
func containerd(t *testing.T, m *mirror) puller {
	return containerdWith(t, m, filepath.Join(m.ClientConfig(t, "containerd"), "etc/containerd/certs.d"))
}

func containerdWith(t *testing.T, m *mirror, hosts string) puller {
	command := startContainerd(t, m)
	return func(t *testing.T, name string, want *harness.Image) {
		harness.Run(t, command("images", "pull", "--hosts-dir", hosts, "--platform", "linux/amd64", "--snapshotter", "native", name))
		if out := harness.Run(t, command("content", "ls", "--quiet")); !strings.Contains(out, want.ID()) {
			t.Errorf("%s: containerd has no config %s:\n%s", name, want.ID(), out)
		}
		harness.Run(t, command("images", "rm", "--sync", name))
	}
}

// startContainerd runs containerd, and returns the command ctr for it.
func startContainerd(t *testing.T, m *mirror) func(args ...string) *exec.Cmd {
	path, ctr := testutil.Program(t, "containerd", "containerd"), testutil.Program(t, "ctr", "containerd")
	testutil.Root(t)
	dir := harness.SocketDir(t, "containerd-")
	socket, config := filepath.Join(dir, "sock"), filepath.Join(dir, "config.toml")
	harness.WriteFile(t, config, fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket))
	harness.StartDaemon(t, m.command(t, path, "--config", config))
	command := func(args ...string) *exec.Cmd {
		return m.command(t, ctr, append([]string{"--address", socket}, args...)...)
	}
	harness.Eventually(t, "containerd answers", func() bool { return command("version").Run() == nil })
	return command
}
