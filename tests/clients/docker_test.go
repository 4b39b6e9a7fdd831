package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// docker pulls in Docker's own way to a mirror images of Docker Hub, and with
// the mirror's address in their names all others.
func docker(t *testing.T, m *mirror) puller {
	config, err := os.ReadFile(filepath.Join(m.ClientConfig(t, "docker"), "etc/docker/daemon.json"))
	harness.Must(t, err)
	engine := harness.StartDocker(t, string(config), m.env...)
	return func(t *testing.T, name string, want *harness.Image) {
		if !strings.HasPrefix(name, "docker.io/") {
			name = m.Addr + "/" + name
		}
		engine.Pull(name, want.ID())
	}
}
