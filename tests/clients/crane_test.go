package clients

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func crane(t *testing.T, m *mirror) puller {
	path := harness.Tool(t, "clients", "crane")
	return func(t *testing.T, name string, want *harness.Image) {
		dir := t.TempDir()
		harness.Run(t, m.command(t, path, "pull", "--insecure", "--platform", "linux/amd64", "--format", "oci", m.Addr+"/"+name, dir))
		expectLayout(t, dir, want)
	}
}
