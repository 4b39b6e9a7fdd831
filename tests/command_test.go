package tests

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// command runs the mirror's binary to its end in a directory.
func command(t *testing.T, dir string, args ...string) result {
	t.Helper()
	return commandWith(t, dir, nil, args...)
}

// commandWith is command with variables of the environment.
func commandWith(t *testing.T, dir string, env []string, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), env...) // else a second each
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "good.toml"), "[server]\nport = 1\n[blob_store.fs]\nroot_dir = \"data\"\n"+
		"[[repository.\"ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n")
	harness.WriteFile(t, filepath.Join(dir, "bad.toml"), "[server]\nprot = 1\n")
	harness.WriteFile(t, filepath.Join(dir, "any-port.toml"), "[server]\nport = 0\n")
	for _, c := range []struct {
		args   string
		code   int
		stdout string // text in the standard output
		stderr string // text in the standard error
	}{
		{"version", 0, "weir ", ""},
		{"--help", 0, "serve", ""},
		{"serve --help", 0, "shutdown_drain_secs", ""},
		{"check --help", 0, "--config", ""},
		{"healthcheck --help", 0, "--config", ""},
		{"check --config good.toml", 0, `url = "https://ghcr.io"`, ""},
		{"check", 0, `url = "https://registry-1.docker.io"`, ""}, // built-in

		{"", 2, "", "command is missing"},
		{"server", 2, "", `unknown command "server"`},
		{"serve now", 2, "", `weir serve takes no arguments, but got "now"`},
		{"serve --port 1", 2, "", "unknown flag: --port"},
		{"version --config", 2, "", "--config"},
		{"check --config bad.toml", 2, "", `bad.toml:2: server.prot: unknown key; did you mean "port"?`},
		{"serve --config bad.toml", 2, "", `bad.toml:2: server.prot`},
		{"check --config good.toml --config missing.toml", 2, "", "missing.toml: cannot read the configuration"},

		{"--version", 0, "weir ", ""},
		{"check good.toml", 0, "# ok: the configuration is valid (good.toml)", ""},
		{"check good.toml", 0, "server.port  ", ""},
		{"check --listen 127.0.0.1:9 --data d --log-level warn", 0, `root_dir = "d"`, ""},
		{"check --listen 127.0.0.1", 2, "", "--listen is"},
		{"check --log-level loud good.toml", 2, "", "--log-level: log.level: "},
		{"check bad.toml", 2, "", "bad.toml:2: server.prot"},
		{"check good.toml missing.toml", 2, "", "missing.toml: cannot read the configuration"},

		{"healthcheck --config bad.toml --config good.toml", 1, "", "no mirror answers"},
		{"healthcheck --config good.toml", 1, "", "no mirror answers"},
		{"healthcheck --config any-port.toml", 1, "", "server.port"},
	} {
		got := command(t, dir, strings.Fields(c.args)...)
		if got.code != c.code || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("weir %s: exit code %d, stdout %q, stderr %q; want %d, %q, %q", c.args, got.code, got.stdout, got.stderr, c.code, c.stdout, c.stderr)
		}
		if (got.code == 0) != (got.stderr == "") || (got.code == 0) != (got.stdout != "") {
			t.Errorf("weir %s: exit code %d, but stdout %q and stderr %q", c.args, got.code, got.stdout, got.stderr)
		}
	}
}

// All problems of a configuration are told at once, each with its place.
func TestBrokenConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "one.toml"), `[server]
port = 70000
[global]
tag_ttl = "-1s"
[repository."ghcr.io"]
immutable_tags_exclusions = ["fine", "("]
default = true
[[repository."ghcr.io".upstream]]
url = "https://ghcr.io"
username = "alone"
`)
	harness.WriteFile(t, filepath.Join(dir, "two.toml"), `[repository."quay.io"]
default = true
[[repository."quay.io".upstream]]
url = "https://quay.io"
[[repository."quay.io".upstream]]
url = "ftp://quay.io"
client_certificate = "missing.crt"
[repository."empty.example"]
[auth]
htpasswd = "missing"
`)
	for _, name := range []string{"check", "serve"} {
		got := command(t, dir, name, "--config", "one.toml", "--config", "two.toml")
		if got.code != 2 || got.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", name, got.code, got.stdout)
		}
		for _, want := range []string{
			"one.toml:2: server.port: ",
			"one.toml:4: global.tag_ttl: ",
			`one.toml:6: repository."ghcr.io".immutable_tags_exclusions[1]: `,
			`one.toml:8: repository."ghcr.io".upstream[0].password: `,
			`two.toml:2: repository."quay.io".default: `,
			`two.toml:5: repository."quay.io".upstream[1].client_private_key: `,
			`two.toml:6: repository."quay.io".upstream[1].url: `,
			`two.toml:8: repository."empty.example".upstream: `,
			"two.toml:10: auth.htpasswd: ",
		} {
			if !strings.Contains(got.stderr, "\n"+want) {
				t.Errorf("%s does not tell of %s:\n%s", name, want, got.stderr)
			}
		}
		if lines := strings.Count(got.stderr, "\n"); lines != 10 {
			t.Errorf("%s prints %d lines, want one for each problem:\n%s", name, lines, got.stderr)
		}
	}
}

// The output of check is a configuration again, the same one.
func TestCheckPrintsAConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), popularMirror(t))
	first := command(t, dir, "check")
	if first.code != 0 {
		t.Fatalf("check: %+v", first)
	}
	for _, secret := range []string{"hunter2", "r3dis"} {
		if strings.Contains(first.stdout+first.stderr, secret) {
			t.Errorf("check prints a secret:\n%s%s", first.stdout, first.stderr)
		}
	}
	filled := strings.NewReplacer(`"[redacted]"`, `"hunter2"`, ":redacted@", ":r3dis@").Replace(first.stdout)
	if filled == first.stdout {
		t.Errorf("check shows no redacted secret:\n%s", first.stdout)
	}
	harness.WriteFile(t, filepath.Join(dir, "printed.toml"), filled)
	second := command(t, dir, "check", "--config", "printed.toml")
	if second.code != 0 {
		t.Fatalf("check of the output of check: %+v", second)
	}
	if a, b := settings(first.stdout), settings(second.stdout); a != b {
		t.Errorf("check prints\n%s\nand of that\n%s", a, b)
	}
}

// settings returns a printed configuration without its comments.
func settings(toml string) string { return regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(toml, "") }

// popularMirror is a configuration as operators of a mirror have it.
func popularMirror(t *testing.T) string {
	t.Helper()
	certificate, key := upstreamtest.New(t, upstreamtest.WithClientCertificates()).ClientCertificateFiles()
	return fmt.Sprintf(`
[global]
max_concurrent_cache_jobs = 8

[cache.redis]
url = "redis://:r3dis@127.0.0.1:1/3"
key_prefix = "mirror-tokens"

[repository."library"]
immutable_tags = true
immutable_tags_exclusions = ["^latest$", "^nightly.*$"]

[[repository."library".upstream]]
url = "https://registry.example.com/dockerhub-cache"
username = "robot"
password = "hunter2"
max_redirect = 5

[[repository."library".upstream]]
url = "https://registry-1.docker.io"
max_redirect = 5

[[repository."ghcr.io".upstream]]
url = "https://ghcr.io"
max_redirect = 5

[[repository."quay.io".upstream]]
url = "https://quay.io"

[[repository."internal".upstream]]
url = "https://registry.internal.example"
client_certificate = %q
client_private_key = %q
`, certificate, key)
}

func TestPopularMirrorStarts(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, popularMirror(t))
	expect(t, "ping", w.Get(t, "/v2/"), http.StatusOK, "")
	expect(t, "ready", w.Get(t, "/readyz"), http.StatusOK, "")
	for _, name := range []string{"library/nginx", "ghcr.io/org/app", "quay.io/org/app", "internal/app"} {
		a := w.Do(t, http.MethodPost, "/v2/"+name+"/blobs/uploads/")
		if a.Status != http.StatusUnauthorized || a.ErrorCode() != "UNAUTHORIZED" || !strings.Contains(string(a.Body), name+" is a read-only mirror of ") {
			t.Errorf("a write to %s: %d %s", name, a.Status, a.Body)
		}
	}
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A mirror on a fixed port: healthcheck finds it, and a second one does not
// start.
func TestFixedPort(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, fmt.Sprintf("[server]\nport = %d\n", port)+block("mirror", upstreamtest.New(t)))
	if want := fmt.Sprintf("127.0.0.1:%d", port); w.Addr != want {
		t.Errorf("listens on %s, want %s", w.Addr, want)
	}
	configs := []string{"--config", filepath.Join(dir, "base.toml"), "--config", w.Config}
	if got := command(t, dir, append([]string{"healthcheck"}, configs...)...); got.code != 0 || got.stdout != "healthy\n" {
		t.Errorf("healthcheck: %+v", got)
	}
	got := command(t, dir, append([]string{"serve"}, configs...)...)
	if got.code != 1 || !strings.Contains(got.stderr, "weir: cannot listen (server.bind_address, server.port)") ||
		!strings.Contains(got.stderr, fmt.Sprint(port)) || !strings.Contains(got.stderr, "address already in use") {
		t.Errorf("a second mirror: %+v", got)
	}
	expect(t, "the first one", w.Get(t, "/healthz"), http.StatusOK, "")
	w.Terminate(t)
	if got := command(t, dir, append([]string{"healthcheck"}, configs...)...); got.code != 1 || !strings.Contains(got.stderr, "no mirror answers") {
		t.Errorf("healthcheck of no mirror: %+v", got)
	}
}

// A mirror that listens on all addresses is found on a system without /etc/hosts, and no DNS
// server is asked for localhost.
func TestHealthcheckWithoutHostsFile(t *testing.T) {
	t.Parallel()
	testutil.Root(t)
	w := harness.StartWeir(t, block("mirror", upstreamtest.New(t)))
	_, port, err := net.SplitHostPort(w.Addr)
	harness.Must(t, err)
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "weir.toml"),
		fmt.Sprintf("[server]\nport = %s\nbind_address = \"0.0.0.0\"\n[blob_store.fs]\nroot_dir = %q\n", port, filepath.Join(dir, "data")))
	const empty = `mount --bind /dev/null /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$0" healthcheck --config weir.toml`
	cmd := exec.CommandContext(t.Context(), testutil.Program(t, "unshare", "util-linux"), "--mount", "--propagation", "private", "sh", "-c", empty, harness.Binary(t))
	cmd.Dir = dir
	if out := harness.Run(t, cmd); out != "healthy\n" {
		t.Errorf("healthcheck: %q", out)
	}
}

// Port 0 is one that the system chooses, which serve prints and logs.
func TestChosenPort(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, block("mirror", upstreamtest.New(t)))
	if !regexp.MustCompile(`^http://127\.0\.0\.1:[1-9][0-9]+$`).MatchString(w.URL) {
		t.Errorf("printed %q", w.URL)
	}
	w.Logs(t, `"msg":"listening"`, `"address":"`+w.Addr+`"`)
}

// Environment variables and several files make one configuration.
func TestConfigurationOfSeveralSources(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t, upstreamtest.WithBasic("reader", "s3cret$"))
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, blockOf("mirror", nil, []string{`url = "${TEST_UPSTREAM}"`, `username = "reader"`, `password = "${TEST_PASSWORD}$$"`}),
		"TEST_UPSTREAM="+upstream.URL.String(), "TEST_PASSWORD=s3cret")
	expectContent(t, "pull", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
}

// A data directory that cannot be used ends the mirror with a message that says
// how to mend it.
func TestUnusableDataDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "file"), "")
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[server]\nport = 0\n[blob_store.fs]\nroot_dir = \"file\"\n"+
		"[[repository.\"ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n")
	got := command(t, dir, "serve")
	if got.code != 2 || !strings.Contains(got.stderr, "config.toml:4: blob_store.fs.root_dir: ") {
		t.Errorf("%+v", got)
	}
}
