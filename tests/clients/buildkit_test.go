package clients

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tests/require"
)

// BuildKit is built from its module: Debian has no package of it.
func TestBuildKit(t *testing.T) {
	require.Program(t, "runc", "runc")
	require.Root(t)
	bin := harness.BuildTools(t, "buildkit", "github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl")

	m := startMirrored(t)
	dir := harness.SocketDir(t, "buildkitd-")
	config := filepath.Join(m.ClientConfig(t, "buildkit"), "etc/buildkit/buildkitd.toml")
	socket := "unix://" + filepath.Join(dir, "sock")
	harness.StartDaemon(t, exec.CommandContext(t.Context(), filepath.Join(bin, "buildkitd"), "--config", config, "--addr", socket,
		"--root", filepath.Join(dir, "root"), "--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host"))
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), filepath.Join(bin, "buildctl"), append([]string{"--addr", socket}, args...)...)
	}
	harness.Eventually(t, "buildkitd answers", func() bool { return command("debug", "workers").Run() == nil })
	source := t.TempDir()
	harness.WriteFile(t, filepath.Join(source, "Dockerfile"), "FROM docker.io/org/app:1.2\nCOPY Dockerfile /\n")
	m.coldThenWarm(t, func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out.tar")
		harness.Run(t, command("build", "--frontend", "dockerfile.v0", "--local", "context="+source, "--local", "dockerfile="+source,
			"--opt", "platform=linux/amd64", "--no-cache", "--output", "type=tar,dest="+out))
		if files := harness.Run(t, exec.CommandContext(t.Context(), "tar", "-tf", out)); !strings.Contains(files, "file-0") {
			t.Errorf("what was built on the image lacks its files:\n%s", files)
		}
		harness.Run(t, command("prune", "--all"))
	})
}
