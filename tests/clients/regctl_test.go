package clients

import (
	"path/filepath"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// regctl has mirrors of its own, and tells them the registry in the parameter
// ns.
func regctl(t *testing.T, m *mirror) puller {
	configured := regctlCommand(t, m)
	for _, registry := range registries() {
		configured(t, "registry", "set", "--skip-check", "--mirror", m.Addr, registry)
	}
	return regctlWith(configured, "")
}

func regctlNamed(t *testing.T, m *mirror) puller { return regctlWith(regctlCommand(t, m), m.Addr+"/") }

// regctlCommand is regctl with a configuration of the test's own, which says
// that the mirror speaks plain HTTP.
func regctlCommand(t *testing.T, m *mirror) func(t *testing.T, args ...string) {
	path, config := harness.Tool(t, "clients", "regctl"), filepath.Join(t.TempDir(), "config.json")
	command := func(t *testing.T, args ...string) {
		cmd := m.command(t, path, args...)
		cmd.Env = append(cmd.Env, "REGCTL_CONFIG="+config)
		harness.Run(t, cmd)
	}
	command(t, "registry", "set", "--tls", "disabled", m.Addr)
	return command
}

func regctlWith(command func(t *testing.T, args ...string), prefix string) puller {
	return func(t *testing.T, name string, want *harness.Image) {
		dir := t.TempDir()
		command(t, "image", "copy", "--platform", "linux/amd64", prefix+name, "ocidir://"+dir+":it")
		expectLayout(t, dir, want)
	}
}
