package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// healthcheck asks the running mirror, whatever has become of its files: Swarm and
// ECS kill a container whose check fails.
func TestHealthcheckAsksTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstreamtest.New(t))) // on a port of the system's choice
	base := filepath.Join(dir, "base.toml")
	check := func(change string) result {
		got := command(t, dir, "healthcheck", "--config", base, "--config", w.Config)
		if got.code != 0 || got.stdout != "healthy\n" {
			t.Errorf("%s: %+v", change, got)
		}
		return got
	}
	check("as it was")
	good, err := os.ReadFile(w.Config)
	harness.Must(t, err)
	for change, text := range map[string]string{
		"unknown key": "[server]\nprot = 1\n", "no TOML": "[server\n", "wrong value": "[log]\nlevel = \"loud\"\n",
		"missing secret": string(good) + "username = \"u\"\npassword_file = \"/missing\"\n", "another port": "[server]\nport = 1\n",
	} {
		harness.WriteFile(t, w.Config, text)
		check(change)
	}
	harness.Must(t, os.Remove(w.Config))
	check("removed")
	w.Kill()
	if got := command(t, dir, "healthcheck", "--config", base); got.code != 1 || !strings.Contains(got.stderr, "no mirror answers") {
		t.Errorf("after a kill: %+v", got)
	}
}

// Commands about a running mirror, or about clients, need no right to its data.
func TestCommandsThatDoNotTouchTheStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "file"), "in the way")
	harness.WriteFile(t, filepath.Join(dir, "weir.toml"), "[blob_store.fs]\nroot_dir = \"file/store\"\n")
	if got := command(t, dir, "check"); got.code != 2 || !strings.Contains(got.stderr, "weir.toml:2: blob_store.fs.root_dir: ") {
		t.Errorf("check: %+v", got)
	}
	if got := command(t, dir, "client-config", "docker"); got.code != 0 {
		t.Errorf("client-config: %+v", got)
	}
	if got := command(t, dir, "version"); got.code != 0 {
		t.Errorf("version: %+v", got)
	}
	if got := command(t, dir, "healthcheck"); got.code > 1 {
		t.Errorf("healthcheck: %+v", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("the commands left %q, %v", left, err)
	}
}

// Flags win over variables, and these over weir.toml, which comes before
// config.toml. A file with only a port keeps the built-in registries.
func TestWhereTheConfigurationComesFrom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "weir.toml"), "[server]\nport = 1001\n")
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[server]\nport = 1002\n")
	run := func(env []string, args ...string) string {
		t.Helper()
		cmd := exec.Command(harness.Binary(t), append([]string{"check"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		return harness.Output(t, cmd)
	}
	expectPort := func(output, port, origin string) {
		t.Helper()
		var found string
		for line := range strings.Lines(output) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[1] == "server.port" {
				found = fields[2]
			}
		}
		if !strings.Contains(output, "\nport = "+port+"\n") || found != origin {
			t.Errorf("want port %s from %s, which is from %q:\n%s", port, origin, found, output)
		}
	}
	output := run(nil)
	expectPort(output, "1001", "weir.toml:2")
	if blocks := strings.Count(output, "\n[repository."); blocks != 8 || !strings.Contains(output, "# Source: \"weir.toml\"") {
		t.Errorf("%d blocks are in force:\n%s", blocks, output)
	}
	expectPort(run([]string{"WEIR_SERVER_PORT=1003"}), "1003", "WEIR_SERVER_PORT")
	expectPort(run([]string{"WEIR_SERVER_PORT=1003"}, "--listen", "127.0.0.1:1004"), "1004", "--listen")
	expectPort(run([]string{"WEIR_SERVER_PORT=tcp://10.0.0.7:80"}), "1001", "weir.toml:2")
	harness.Must(t, os.Remove(filepath.Join(dir, "weir.toml")))
	expectPort(run(nil), "1002", "config.toml:2")

	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[owner]\nname = \"another program\"\n")
	if got := command(t, dir, "check"); got.code != 0 || !strings.Contains(got.stderr, "were ignored: config.toml") || !strings.Contains(got.stdout, "built-in default") {
		t.Errorf("beside the file of another program: %+v", got)
	}
	harness.WriteFile(t, filepath.Join(dir, "weir.toml"), "[blob_store.fs]\nmin_free = \"4EiB\"\nmax_size = \"5EiB\"\n")
	if got := command(t, dir, "check"); got.code != 0 || strings.Count(got.stderr, "warning: ") != 2 || !strings.Contains(got.stderr, "nothing will be stored") {
		t.Errorf("limits beyond the disk: %+v", got)
	}
}

// serve takes its address, its data and the level of its log from flags, and a reload
// keeps them.
func TestServeWithFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := harness.StartWeirAs(t, dir, "[log]\nlevel = \"error\"\n"+block("mirror", upstreamtest.New(t)), func(cmd *exec.Cmd) {
		cmd.Dir = dir
		cmd.Args = append(cmd.Args, "--listen", "127.0.0.1:0", "--data", "elsewhere", "--log-level", "debug")
	})
	w.Logs(t, `"msg":"listening"`, fmt.Sprintf("%q", "elsewhere"))
	if _, err := os.Stat(filepath.Join(dir, "elsewhere", "blobs")); err != nil {
		t.Error(err)
	}
	harness.WriteFile(t, w.Config, "[log]\nlevel = \"warn\"\n"+block("mirror", upstreamtest.New(t)))
	w.Logs(t, "the changed configuration is in force")
	if strings.Contains(w.Log.String(), "only at the next restart") {
		t.Errorf("a reload forgets the flags:\n%s", w.Log)
	}
}
