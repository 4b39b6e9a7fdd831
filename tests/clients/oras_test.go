package clients

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func oras(t *testing.T, m *mirror) puller {
	path := harness.Tool(t, "clients", "oras")
	return func(t *testing.T, name string, want *harness.Image) {
		dir := t.TempDir()
		harness.Run(t, m.command(t, path, "copy", "--from-plain-http", "--platform", "linux/amd64", m.Addr+"/"+name, "--to-oci-layout", dir+":it"))
		expectLayout(t, dir, want)
	}
}
