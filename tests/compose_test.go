package tests

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// compose is the project of contrib/compose, in a copy and on an engine of the
// test's own.
type compose struct {
	*harness.Docker
	t    *testing.T
	dir  string
	addr string // where the mirror is published
	path string // of the program
}

func startCompose(t *testing.T) *compose {
	t.Helper()
	path := testutil.Program(t, "docker-compose", "docker-compose")
	c := &compose{Docker: harness.StartDocker(t, `{}`), t: t, dir: filepath.Join(t.TempDir(), "mirror"), addr: testutil.FreeAddr(t), path: path}
	harness.Must(t, os.CopyFS(c.dir, os.DirFS("../contrib/compose")))
	makeImage := exec.CommandContext(t.Context(), "make", "-C", "..", "image")
	makeImage.Env = append(os.Environ(), "DOCKER_HOST="+c.Socket)
	harness.Run(t, makeImage)
	c.buildRedis()
	return c
}

func (c *compose) run(args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), c.path, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+c.Socket, "WEIR_PORT="+c.addr)
	return harness.Run(c.t, cmd)
}

// buildRedis makes an image of Debian's Redis under the name of the one that
// the project pulls, which cannot be pulled here.
func (c *compose) buildRedis() {
	c.t.Helper()
	source, err := os.ReadFile(filepath.Join(c.dir, "compose.yaml"))
	harness.Must(c.t, err)
	name := regexp.MustCompile(`image: (redis:\S+)`).FindSubmatch(source)
	if name == nil {
		c.t.Fatal("compose.yaml has no image of Redis")
	}
	files := []string{testutil.Program(c.t, "redis-server", "redis-server"), testutil.Program(c.t, "redis-cli", "redis-tools")}
	for _, program := range slices.Clone(files) {
		libraries := harness.Run(c.t, exec.CommandContext(c.t.Context(), "ldd", program))
		files = append(files, regexp.MustCompile(`/\S+`).FindAllString(libraries, -1)...)
	}
	root := filepath.Join(c.t.TempDir(), "root")
	for _, file := range files {
		content, err := os.ReadFile(file)
		harness.Must(c.t, err)
		harness.Must(c.t, os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o755))
		harness.Must(c.t, os.WriteFile(filepath.Join(root, file), content, 0o755))
	}
	harness.Must(c.t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	harness.Must(c.t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("redis:x:999:999::/data:/bin/false\n"), 0o644))
	harness.Must(c.t, os.WriteFile(filepath.Join(root, "Dockerfile"), []byte("FROM scratch\nCOPY . /\nENV PATH=/usr/bin\nWORKDIR /data\n"), 0o644))
	harness.Run(c.t, c.Command("build", "--tag", string(name[1]), root))
}

// forward makes a server on this machine's loopback interface reachable from
// the project's network, under the address that it returns.
func (c *compose) forward(addr string) string {
	c.t.Helper()
	gateway := strings.TrimSpace(harness.Run(c.t, c.Command("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "mirror_default")))
	_, err := netip.ParseAddr(gateway)
	harness.Must(c.t, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(gateway, "0"))
	harness.Must(c.t, err)
	c.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
	return listener.Addr().String()
}

func (c *compose) state(service string) string {
	c.t.Helper()
	id := strings.TrimSpace(c.run("ps", "--quiet", service))
	return strings.TrimSpace(harness.Run(c.t, c.Command("inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", id)))
}

// The project as it stands comes up healthy, serves with a configuration that
// is written while it runs, shares tokens and cooldowns through its Redis, and
// keeps the cache on its volume.
func TestCompose(t *testing.T) {
	c := startCompose(t)
	defer c.run("down", "--volumes") // with the engine, which ends before cleanups run
	c.run("up", "--detach")
	harness.Eventually(t, "both services are healthy", func() bool {
		return c.state("weir") == "running healthy" && c.state("redis") == "running healthy"
	})

	for service, want := range map[string]string{"weir": "1073741824 8192 true", "redis": "134217728 64 true"} {
		id := strings.TrimSpace(c.run("ps", "--quiet", service))
		if got := strings.TrimSpace(harness.Run(t, c.Command("inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.ReadonlyRootfs}}", id))); got != want {
			t.Errorf("the limits of %s are %q, want %q", service, got, want)
		}
	}

	upstream := upstreamtest.New(t, upstreamtest.WithBasic("puller", "secret"))
	blob := addRandom(t, upstream, "org/app", mib, 1)
	harness.Must(t, os.WriteFile(filepath.Join(c.dir, "config/hub"), []byte("secret\n"), 0o644))
	file := filepath.Join(c.dir, "config/config.toml")
	config, err := os.ReadFile(file)
	harness.Must(t, err)
	config = bytes.ReplaceAll(config, []byte("https://registry-1.docker.io"), []byte("http://"+c.forward(upstream.URL.Host)))
	config = regexp.MustCompile(`(?m)^#(username|password_file)`).ReplaceAll(config, []byte("$1"))
	harness.Must(t, os.WriteFile(file+".new", config, 0o644))
	harness.Must(t, os.Rename(file+".new", file))
	w := &harness.Weir{URL: "http://" + c.addr}
	path := blobPath("docker.io/org/app", blob)
	harness.Eventually(t, "the configuration is in force", func() bool { return w.Get(t, path).Status == http.StatusOK })
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "once more", w.Get(t, path), blob, statusHit)

	upstream.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusTooManyRequests, ""))
	expect(t, "a tag, rate limited", w.Get(t, manifestPath("docker.io/org/app", "1.2")), http.StatusTooManyRequests, "")
	harness.Eventually(t, "Redis knows of the limit", func() bool {
		return strings.Contains(c.run("exec", "-T", "redis", "redis-cli", "--scan"), "weir")
	})

	c.run("exec", "-T", "weir", "/weir", "check")
	c.run("restart")
	harness.Eventually(t, "it serves the content of the volume", func() bool {
		resp, err := http.Get(w.URL + path)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK && resp.Header.Get("Cache-Status") == statusHit
	})
	c.run("stop")
	if exited := harness.Run(t, c.Command("ps", "--all", "--format", "{{.Status}}", "--filter", "name=weir")); !strings.HasPrefix(exited, "Exited (0)") {
		t.Errorf("stopped, it has %s", exited)
	}
}
