package main

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loadText loads a configuration whose data are below the test's directory, and
// returns the path of its file.
func loadText(t *testing.T, text string) (*config.Config, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	write(t, path, "[blob_store.fs]\nroot_dir = \""+filepath.Join(dir, "data")+"\"\n"+text)
	cfg, err := load([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, path
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

const twoRepositories = `
[cache.redis]
url = "redis://127.0.0.1:1/0"
[[repository."ghcr.io".upstream]]
url = "https://ghcr.io"
[[repository."quay.io".upstream]]
url = "https://quay.io"
[[repository."quay.io".upstream]]
url = "https://ghcr.io"
`
