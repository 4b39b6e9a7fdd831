package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
)

// Slow and idle clients have limits; a transfer has none, however long it takes.
func TestServerLimits(t *testing.T) {
	s := newServer(http.NotFoundHandler(), discard())
	if s.ReadHeaderTimeout != 10*time.Second || s.IdleTimeout != 2*time.Minute || s.MaxHeaderBytes != 64<<10 {
		t.Errorf("headers within %s and %d bytes, idle connections for %s", s.ReadHeaderTimeout, s.MaxHeaderBytes, s.IdleTimeout)
	}
	if s.ReadTimeout != 0 || s.WriteTimeout != 0 {
		t.Errorf("a transfer ends after %s or %s", s.ReadTimeout, s.WriteTimeout)
	}
	if !s.Protocols.HTTP1() || !s.Protocols.UnencryptedHTTP2() {
		t.Errorf("speaks %s", s.Protocols)
	}
}

// A mirror says where it listens, serves, and ends without an error when its
// context does.
func TestRun(t *testing.T) {
	clearTracing(t)
	cfg, path := loadText(t, twoRepositories+"[server]\nbind_address = \"127.0.0.1\"\nport = 0\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr testutil.LogBuffer
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config.Source{Files: []string{path}}, cfg, &stdout, &stderr) }()
	// The log is JSON, so the address is a line of JSON too.
	var ready struct{ Msg, URL string }
	for end := time.Now().Add(10 * time.Second); json.Unmarshal([]byte(stdout.String()), &ready) != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("printed %q", stdout.String())
		}
	}
	address := ready.URL
	if ready.Msg != "listening on "+address {
		t.Errorf("printed %q", stdout.String())
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v2/": 200, "/metrics": 200, "/nothing": 404} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr.String(), "all requests and downloads have ended") {
		t.Errorf("the log ends with\n%s", stderr.String())
	}
	// The first line says what runs.
	var start map[string]any
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, `"msg":"listening"`) {
			if err := json.Unmarshal([]byte(line), &start); err != nil {
				t.Fatal(err)
			}
		}
	}
	version, revision := Version()
	for key, want := range map[string]any{
		"address": strings.TrimPrefix(address, "http://"), "version": version, "revision": revision, "go": runtime.Version(),
		"configuration": path, "default": "none", "data": cfg.BlobStore.FS.RootDir, "min_free": "1GiB", "max_size": "",
		"max_concurrent_fetches": 64.0, "redis": true,
	} {
		if start[key] != want {
			t.Errorf("the start line has %s = %v, want %v", key, start[key], want)
		}
	}
	if got, ok := start["overrides"].([]any); !ok || len(got) > 0 {
		t.Errorf("the start line has the overrides %v, want an empty list", start["overrides"])
	}
	if got := fmt.Sprint(start["repositories"]); got != "[ghcr.io (1) quay.io (2)]" {
		t.Errorf("the start line has the repositories %s", got)
	}
}

// A log for people has a line for people on stdout.
func TestAnnounce(t *testing.T) {
	var b bytes.Buffer
	announce(&b, "http://127.0.0.1:8000", false)
	if got := b.String(); got != "weir: listening on http://127.0.0.1:8000\n" {
		t.Errorf("printed %q", got)
	}
}

// An address that is taken is an error that names the keys.
func TestRunCannotListen(t *testing.T) {
	clearTracing(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	cfg, path := loadText(t, twoRepositories+"[server]\nbind_address = \"127.0.0.1\"\nport = "+port+"\n")
	err = Run(t.Context(), config.Source{Files: []string{path}}, cfg, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "server.bind_address") {
		t.Error(err)
	}
}

// A request that does not end within the limit is cut off, and the error says so.
func TestDrainEndsAtItsLimit(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	begun := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}))
	server.Start()
	defer server.Close()
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := server.Client().Do(req); err == nil {
			resp.Body.Close()
			t.Error("the request was answered")
		}
	}()
	<-begun
	err = m.drain(server.Config, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "did not end within 50ms (global.shutdown_drain_secs)") {
		t.Error(err)
	}
}
