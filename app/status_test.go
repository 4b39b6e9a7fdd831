package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
)

const withSecret = twoRepositories + "username = \"u\"\npassword = \"tiger\"\n"

// The state of a mirror has its upstreams, each once, its configuration without secrets, and what is wrong.
func TestState(t *testing.T) {
	cfg, path := loadText(t, withSecret)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ups := m.state.Upstreams(t.Context())
	if len(ups) != 2 || ups[0].Name != "ghcr.io" || !slices.Equal(ups[0].Blocks, []string{"ghcr.io", "quay.io"}) || ups[1].Name != "quay.io" || ups[0].State != "unknown" || ups[0].Requests != 0 {
		t.Errorf("%+v", ups)
	}
	settings := m.state.Configuration(t.Context())
	for _, want := range []api.Setting{
		{Key: `repository."ghcr.io".upstream[0].url`, Value: `"https://ghcr.io"`, Origin: path + ":7"},
		{Key: `repository."quay.io".upstream[1].password`, Value: `"[redacted]"`, Origin: path + ":13"},
		{Key: "server.port", Value: "8000", Origin: "default"},
	} {
		if !slices.Contains(settings, want) {
			t.Errorf("%+v is missing in %+v", want, settings)
		}
	}
	if ready, problems := m.state.Problems(t.Context()); !ready || len(problems) != 0 {
		t.Errorf("%v, %+v", ready, problems)
	}
	m.storage.content.Failed(&os.PathError{Op: "open", Path: "/secret", Err: errors.New("disk full")})
	failed := &reloader{}
	failed.failed.Store(true)
	m.state.reloads.Store(failed)
	if ready, problems := m.state.Problems(t.Context()); !ready || len(problems) != 2 || problems[0].Summary != "content is served without being stored: disk full" || problems[0].Remedy == "" {
		t.Errorf("%v, %+v", ready, problems)
	}
	if s := m.state.Store(t.Context()); s.Kind != "disk" || s.Free == nil || s.EvictionAge != nil {
		t.Errorf("%+v", s)
	}
	if b := m.state.Build(); b.Version == "" || b.Started.IsZero() || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("%+v", b)
	}
}

// A client learns of the upstreams of those blocks that it may know of, and the configuration only if these are all.
func TestStateHidesBlocks(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ctx := context.WithValue(t.Context(), tellsKey{}, tells(func(_ context.Context, q access.Question) bool { return q.Block != "quay.io" }))
	if ups := m.state.Upstreams(ctx); len(ups) != 1 || !slices.Equal(ups[0].Blocks, []string{"ghcr.io"}) {
		t.Errorf("%+v", ups)
	}
	if settings := m.state.Configuration(ctx); len(settings) != 0 {
		t.Errorf("%+v", settings)
	}
}

// Pulls show in the traffic of the mirror, with what was fetched for them.
func TestStateCountsPulls(t *testing.T) {
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Docker-Content-Digest", digest.FromString(manifest).String())
		_, _ = w.Write([]byte(manifest))
	}))
	defer up.Close()
	cfg, _ := loadText(t, "[[repository.\"up.example\".upstream]]\nurl = \""+up.URL+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	for range 3 {
		if w := get(t, m.handler, "/v2/up.example/app/manifests/v1"); w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	w := get(t, m.handler, "/api/v1/status")
	var s api.Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	size := int64(len(manifest))
	if s.Traffic.Now.Requests != 3 || s.Traffic.Now.Hits != 2 || s.Traffic.Now.Served != 3*size || s.Traffic.Now.Fetched != size || s.Traffic.Month != s.Traffic.Now {
		t.Errorf("%+v", s.Traffic)
	}
	if len(s.Upstreams) != 1 || s.Upstreams[0].State != "ok" || s.Upstreams[0].Requests == 0 || s.Upstreams[0].Latency <= 0 {
		t.Errorf("%+v", s.Upstreams)
	}
	if last := m.engine.recent.Since(0); len(last) != 3 || last[0].Repository != "up.example/app" || last[0].Reference != "v1" || last[0].Status != 200 || last[0].Cache == "" {
		t.Errorf("%+v", last)
	}
}

// Requests for a block that a reload has removed, or whose upstream decides about clients, are told to nobody: their
// names may lead to another block by now.
func TestRequestsOfARemovedBlock(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer up.Close()
	at := func(key, more string) string {
		return "[repository.\"" + key + "\"]\n" + more + "[[repository.\"" + key + "\".upstream]]\nurl = \"" + up.URL + "\"\n"
	}
	cfg, path := loadText(t, at("up.example", "")+at("up.example/team", "allow = [\"nobody\"]\n")+at("up.example/own", "authorize = \"upstream\"\n"))
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	for _, target := range []string{"team/secret-app", "own/secret-app", "org/app"} {
		get(t, m.handler, "/v2/"+target+"/manifests/v1?ns=up.example")
		get(t, m.handler, "/v2/up.example/"+target+"/manifests/v1")
	}
	expect := func(when string) {
		t.Helper()
		for _, path := range []string{"/api/v1/requests", "/activity"} {
			w := get(t, m.handler, path)
			if body := w.Body.String(); w.Code != http.StatusOK || strings.Contains(body, "secret-app") || !strings.Contains(body, "up.example/org/app") {
				t.Errorf("%s: %s: %d %s", when, path, w.Code, body)
			}
		}
	}
	expect("before")
	write(t, path, "[blob_store.fs]\nroot_dir = \""+cfg.BlobStore.FS.RootDir+"\"\n"+at("up.example", ""))
	if cfg, err = config.Load(path); err != nil {
		t.Fatal(err)
	}
	if err := m.apply(cfg); err != nil {
		t.Fatal(err)
	}
	expect("after a reload")
}

// A client that follows events does not keep the mirror from ending. A stream lasts longer than
// the drain here.
func TestDrainEndsStreams(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	server := httptest.NewServer(m.handler)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() && lines.Text() != "event: downloads" { // the first event was sent at once
	}
	begun := time.Now()
	if err := m.drain(server.Config, 30*time.Second); err != nil {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream did not end whole: %v", err)
	}
}
