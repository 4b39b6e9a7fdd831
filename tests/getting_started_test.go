package tests

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// internet is a registry that a proxy takes every connection to, so that a
// mirror behind it finds Docker Hub and ghcr.io under their own names.
type internet struct {
	registry *harness.Distribution
	push     *harness.Pusher
	env      []string // of a process that is behind the proxy
}

func startInternet(t *testing.T) *internet {
	t.Helper()
	ca := newAuthority(t)
	certificate, key := ca.issue(t, "registries", "registry-1.docker.io", "ghcr.io")
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(client.CloseIdleConnections)
	d := harness.StartDistribution(t, client, "https", "  tls: {certificate: "+certificate+", key: "+key+"}", "")
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tunnel(w, d.Addr) }))
	t.Cleanup(proxy.Close)
	return &internet{
		registry: d,
		push:     &harness.Pusher{Client: client, Base: "https://" + d.Addr},
		env:      []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + ca.path},
	}
}

// tunnel answers a CONNECT (RFC 9110, section 9.3.6) with a connection to addr.
func tunnel(w http.ResponseWriter, addr string) {
	upstream, err := net.Dial("tcp", addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer upstream.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(upstream, client)
		upstream.Close()
	}()
	_, _ = io.Copy(client, upstream)
}

// Every command of the page works, in its order, on a machine whose internet has
// the page's images.
func TestGettingStarted(t *testing.T) {
	testutil.Program(t, "curl", "curl")
	testutil.Program(t, "make", "make")
	page := readPage(t, "../docs/getting-started.md")
	net := startInternet(t)
	alpine, app := harness.NewImage(t, 100_000, 10), harness.NewImage(t, 1000)
	net.push.PushIndex(t, "library/alpine", "3.20", map[string]*harness.Image{"amd64": alpine, "arm64": harness.NewImage(t, 1000)})
	net.push.PushIndex(t, "stefanprodan/podinfo", "latest", map[string]*harness.Image{"amd64": app, "arm64": harness.NewImage(t, 1000)})

	dir := copyTree(t)
	config := slices.IndexFunc(page.blocks, func(b codeBlock) bool { return b.file == "weir.toml" })
	harness.WriteFile(t, filepath.Join(dir, "weir.toml"), page.blocks[config].text)

	// The output of commands that a reader is told to look at.
	expected := map[string]string{
		"dist/weir version":                "weir ",
		"dist/weir check --config":         `[repository."ghcr.io"]`,
		"dist/weir healthcheck":            "healthy",
		"dist/weir check --online":         "registry-1.docker.io",
		"curl -sI":                         "Cache-Status: weir; hit",
		"dist/weir client-config docker":   `"registry-mirrors"`,
		"dist/weir warm":                   "images: 2 warm, 0 failed; ",
		"dist/weir ls":                     "ghcr.io/stefanprodan/podinfo",
		"dist/weir inspect":                "Layers of sha256:",
		"dist/weir stats":                  "registry-1.docker.io",
		"curl -s http://127.0.0.1:8000/me": `weir_requests_total{cache="hit"`,
	}
	docker := harness.StartDocker(t, "{}")
	var log *testutil.LogBuffer
	for _, command := range page.commands() {
		if strings.HasPrefix(command, "dist/weir serve") {
			log = startServing(t, command, dir, net.env...)
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+docker.Socket)
		if strings.HasPrefix(command, "dist/weir ") {
			cmd.Env = append(cmd.Env, net.env...)
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		printed, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", command, err, printed, &stderr)
		}
		out := string(printed)
		for prefix, want := range expected {
			if !strings.HasPrefix(command, prefix) {
				continue
			}
			if !strings.Contains(out, want) {
				t.Errorf("%s does not print %q but\n%s", command, want, out)
			}
			delete(expected, prefix)
		}
		if strings.HasPrefix(command, "dist/weir client-config docker") {
			docker = harness.StartDocker(t, out) // the output is the file
		}
	}
	if len(expected) > 0 {
		t.Errorf("the page has no command %v", expected)
	}
	if contents := 2 + 1 + len(alpine.Layers); net.registry.Served("GET", "/library/alpine/") != contents {
		t.Errorf("Docker Hub was not asked once for each content of the image\n%s", net.registry.Log)
	}
	// Once by the mirror's name and once by its own, of which the first fetched it all.
	if hits := log.Count(`"method":"GET"`, `"repository":"docker.io/library/alpine"`, `"cache":"hit"`); hits < 2+len(alpine.Layers) {
		t.Errorf("Docker had %d answers from the cache\n%s", hits, log)
	}
}

// copyTree copies the sources, so that commands leave nothing in the tree, and
// returns the copy's directory.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	harness.Run(t, exec.CommandContext(t.Context(), "sh", "-c", `cd .. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, dir))
	return dir
}

// startServing runs a command of a page that starts the mirror on port 8000,
// and returns its log. It ends with the test as Ctrl-C would end it: on SIGTERM
// go run would leave the binary that it has built.
func startServing(t *testing.T, command, dir string, env ...string) *testutil.LogBuffer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec "+command)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	log := &testutil.LogBuffer{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	harness.Must(t, err)
	harness.Must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() }) // the test's context has ended before
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.Contains(line, "listening on http://127.0.0.1:8000") {
		t.Fatalf("%s printed %q, %v\n%s", command, line, err, log)
	}
	return log
}

// The first command of the README, as it stands, serves on port 8000.
func TestReadmeServes(t *testing.T) {
	testutil.Long(t, "links another copy of the source")
	command := readPage(t, "../README.md").commands()[0]
	if command != "go run ./cmd/weir serve" {
		t.Fatalf("the README's first command is %q", command)
	}
	dir := copyTree(t)
	startServing(t, command, dir, "CGO_ENABLED=0", "GOFLAGS=-trimpath -tags=grpcnotrace -ldflags=-s") // as make build has compiled it
	resp, err := http.Get("http://127.0.0.1:8000/v2/")
	harness.Must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/v2/ answers %s", resp.Status)
	}
	if _, err := os.Stat(filepath.Join(dir, "weir-data")); err != nil {
		t.Errorf("its data is not in ./weir-data: %v", err)
	}
}
