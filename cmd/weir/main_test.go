package main

import (
	"log/slog"
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

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

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

// A mirror that is built and closed leaves nothing running (see TestMain) and
// no temporary files.
func TestBuildAndClose(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	r, err := newReloader(m, []string{path}, cfg, new(slog.LevelVar))
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	m.close()
	left, err := os.ReadDir(filepath.Join(cfg.BlobStore.FS.RootDir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// What cannot be built is given back too.
func TestBuildFails(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	cfg.Repositories[0].ImmutableTagsExclusions = []string{"("} // as if it had not been validated
	if _, err := build(cfg, discard()); err == nil {
		t.Error("a pattern that does not compile was built")
	}
	left, err := os.ReadDir(filepath.Join(cfg.BlobStore.FS.RootDir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
