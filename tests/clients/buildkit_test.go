package clients

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// buildkit builds on an image. It is built from its module: Debian has no
// package of it.
func buildkit(t *testing.T, m *mirror) puller {
	testutil.Program(t, "runc", "runc")
	testutil.Root(t)
	buildkitd, buildctl := harness.Tool(t, "buildkit", "buildkitd"), harness.Tool(t, "buildkit", "buildctl")
	dir := harness.SocketDir(t, "buildkitd-")
	config := filepath.Join(m.ClientConfig(t, "buildkit"), "etc/buildkit/buildkitd.toml")
	socket := "unix://" + filepath.Join(dir, "sock")
	harness.StartDaemon(t, m.command(t, buildkitd, "--config", config, "--addr", socket,
		"--root", filepath.Join(dir, "root"), "--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host"))
	command := func(args ...string) *exec.Cmd {
		return m.command(t, buildctl, append([]string{"--addr", socket}, args...)...)
	}
	harness.Eventually(t, "buildkitd answers", func() bool { return command("debug", "workers").Run() == nil })
	return func(t *testing.T, name string, want *harness.Image) {
		source, out := t.TempDir(), filepath.Join(t.TempDir(), "out.tar")
		harness.WriteFile(t, filepath.Join(source, "Dockerfile"), "FROM "+name+"\nCOPY Dockerfile /\n")
		harness.Run(t, command("build", "--frontend", "dockerfile.v0", "--local", "context="+source, "--local", "dockerfile="+source,
			"--opt", "platform=linux/amd64", "--no-cache", "--output", "type=tar,dest="+out))
		files := harness.Run(t, exec.CommandContext(t.Context(), "tar", "-tf", out))
		if got := strings.Count(files, "file-"); got != len(want.Layers) {
			t.Errorf("the image built on %s has %d of its %d files:\n%s", name, got, len(want.Layers), files)
		}
		harness.Run(t, command("prune", "--all"))
	}
}
