package clients

import (
	"path/filepath"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// skopeo finds the mirror in registries.conf.
func skopeo(t *testing.T, m *mirror) puller {
	conf := filepath.Join(m.ClientConfig(t, "podman"), "etc/containers/registries.conf.d/weir.conf")
	return skopeoWith(t, m, "", "--registries-conf", conf, "copy")
}

func skopeoNamed(t *testing.T, m *mirror) puller {
	return skopeoWith(t, m, m.Addr+"/", "copy", "--src-tls-verify=false")
}

func skopeoWith(t *testing.T, m *mirror, prefix string, args ...string) puller {
	path := testutil.Program(t, "skopeo", "skopeo")
	return func(t *testing.T, name string, want *harness.Image) {
		dir := t.TempDir()
		harness.Run(t, m.command(t, path, append(args, "--override-arch", "amd64", "docker://"+prefix+name, "oci:"+dir+":it")...))
		expectLayout(t, dir, want)
	}
}
