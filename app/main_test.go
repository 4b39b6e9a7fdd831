package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loadText loads a configuration whose data are below the test's directory, and
// returns the path of its file.
func loadText(t testing.TB, text string) (*config.Config, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	write(t, path, "[blob_store.fs]\nroot_dir = \""+filepath.Join(dir, "data")+"\"\n"+text)
	cfg, err := config.Load(path)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cfg, path
}

func write(t testing.TB, path, content string) {
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

// TestCloseEndsLookups has a client leave a lookup that its upstream does not
// answer. The lookup runs on, and must have ended before the store is closed.
func TestCloseEndsLookups(t *testing.T) {
	asked, cancelled := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(cancelled)
	}))
	defer up.Close()
	cfg, _ := loadText(t, "[[repository.\"up.example\".upstream]]\nurl = \""+up.URL+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-asked; leave() }()
	m.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/v2/up.example/app/manifests/v1", nil))

	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.engine.cache.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained although a lookup is under way: %v", err)
	}
	m.close()
	select {
	case <-cancelled:
	case <-time.After(5 * time.Second):
		t.Error("the lookup runs on after close")
	}
}

// TestDrainKeepsAnswersOfLookups has a client leave a lookup that its upstream
// answers during the shutdown. The manifest is in the store when drain returns.
func TestDrainKeepsAnswersOfLookups(t *testing.T) {
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	asked, answer := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		io.WriteString(w, manifest)
	}))
	defer up.Close()
	cfg, _ := loadText(t, "[[repository.\"up.example\".upstream]]\nurl = \""+up.URL+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-asked; leave() }()
	m.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/v2/up.example/app/manifests/v1", nil))
	time.AfterFunc(100*time.Millisecond, func() { close(answer) })
	if err := m.drain(newServer(m.handler, discard()), time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := m.storage.store.Stat(t.Context(), digest.FromString(manifest)); err != nil {
		t.Errorf("the manifest was not kept: %v", err)
	}
}

// A mirror that is built and closed leaves nothing running (see TestMain) and
// no temporary files.
func TestBuildAndClose(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	r, err := startReloader(m.apply, config.Source{Files: []string{path}}, cfg, new(slog.LevelVar), m.gatherer, m.logger)
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
	cfg.Namespaces[0].ImmutableTagsExclusions = []string{"("} // as if it had not been validated
	if _, err := build(cfg, discard()); err == nil {
		t.Error("a pattern that does not compile was built")
	}
	left, err := os.ReadDir(filepath.Join(cfg.BlobStore.FS.RootDir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
