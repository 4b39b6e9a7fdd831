package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/tests/require"
)

// must fails the test on an error that only a broken test can meet.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program to its end and returns what it printed on both outputs.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// daemon is a server that another project wrote.
type daemon struct {
	cmd *exec.Cmd
	log *logBuffer
}

// startDaemon runs a server until the test ends, which is when the context of
// its command must end. SIGTERM then lets it give up its mounts and children;
// what is left of its process group after that is killed.
func startDaemon(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{cmd: cmd, log: &logBuffer{}}
	cmd.Stdout, cmd.Stderr = d.log, d.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	must(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		<-exited
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), d.log)
		}
	})
	return d
}

// socketDir makes a directory whose path is short enough for sockets, and
// removes it with the test. Something that is still mounted there is a failure:
// a server was not stopped properly.
func socketDir(t *testing.T, pattern string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", pattern)
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return dir
}

// freeAddr returns an address of the loopback interface that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// distribution is a real registry: Debian's docker-registry.
type distribution struct {
	*daemon
	Addr string
}

// startDistribution runs a registry. More is added to the http section of its
// configuration and to its top level; client is what reaches it.
func startDistribution(t *testing.T, client *http.Client, scheme, httpMore, topMore string) *distribution {
	t.Helper()
	path := require.Program(t, "docker-registry", "docker-registry")
	dir := t.TempDir()
	addr := freeAddr(t)
	config := filepath.Join(dir, "config.yml")
	writeFile(t, config, fmt.Sprintf(`version: 0.1
log: {accesslog: {disabled: false}, level: warn}
storage: {filesystem: {rootdirectory: %q}}
http:
  addr: %s
%s
%s
`, filepath.Join(dir, "data"), addr, httpMore, topMore))
	d := &distribution{daemon: startDaemon(t, exec.CommandContext(t.Context(), path, "serve", config)), Addr: addr}
	eventually(t, "the registry answers", func() bool {
		resp, err := client.Get(scheme + "://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return d
}

// served returns how many requests of a method for a part of a path the
// registry has answered with 200.
func (d *distribution) served(method, part string) int {
	return d.log.count(`"`+method+` /v2/`, part, `" 200 `)
}
