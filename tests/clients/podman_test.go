package clients

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

func podman(t *testing.T, m *mirror) puller { return intoStorage(t, m, "podman") }

func buildah(t *testing.T, m *mirror) puller { return intoStorage(t, m, "buildah") }

// intoStorage is a client that keeps its images in containers/storage, and finds
// the mirror in registries.conf.
func intoStorage(t *testing.T, m *mirror, program string) puller {
	return intoStorageWith(t, m, program, filepath.Join(m.ClientConfig(t, "podman"), "etc/containers/registries.conf.d/weir.conf"), t.TempDir())
}

func intoStorageWith(t *testing.T, m *mirror, program, conf, dir string) puller {
	path := testutil.Program(t, program, program)
	testutil.Root(t)
	place := harness.SocketDir(t, "podman-") // podman has a limit for the length of its paths
	policy := filepath.Join(dir, "policy.json")
	harness.WriteFile(t, policy, `{"default": [{"type": "insecureAcceptAnything"}]}`)
	storage := []string{"--root", filepath.Join(place, "root"), "--runroot", filepath.Join(place, "run"), "--storage-driver", "vfs"}
	command := func(t *testing.T, args ...string) string {
		cmd := m.command(t, path, append(storage, args...)...)
		cmd.Env = append(cmd.Env, "CONTAINERS_REGISTRIES_CONF="+conf, "HOME="+dir)
		return harness.Run(t, cmd)
	}
	return func(t *testing.T, name string, want *harness.Image) {
		id := command(t, "pull", "--quiet", "--signature-policy", policy, "--arch", "amd64", name)
		if id = "sha256:" + strings.TrimSpace(id); id != want.ID() {
			t.Errorf("%s has ID %s, want %s", name, id, want.ID())
		}
		command(t, "rmi", "--all", "--force")
	}
}
