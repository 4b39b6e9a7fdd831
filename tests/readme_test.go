package tests

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// shellBlocks are the commands of a page, in their order.
func shellBlocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	harness.Must(t, err)
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		commands = append(commands, strings.TrimSpace(string(block[1])))
	}
	return commands
}

// copyTree copies the sources, so that what commands leave there is not left in
// the tree, and returns the copy's directory.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	harness.Run(t, exec.CommandContext(t.Context(), "sh", "-c", `cd .. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, dir))
	return dir
}

// startServing runs a command of a page that starts the mirror on port 8000, and
// returns its log. It ends with the test as Ctrl-C would end it: on SIGTERM
// go run would leave what it has built.
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
	if err != nil || strings.TrimSpace(line) != "weir: listening on http://127.0.0.1:8000" {
		t.Fatalf("%s printed %q, %v\n%s", command, line, err, log)
	}
	return log
}

// The first command of the README, as it stands, serves on port 8000.
func TestReadmeServes(t *testing.T) {
	command := shellBlocks(t, "../README.md")[0]
	if command != "go run ./cmd/weir serve" {
		t.Fatalf("the README's first command is %q", command)
	}
	dir := copyTree(t)
	startServing(t, command, dir, "GOFLAGS=-race") // as the tests have compiled it already
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

// The second command, the last one, leaves nothing out for good: CI runs the
// rest too.
func TestReadmeTests(t *testing.T) {
	commands := shellBlocks(t, "../README.md")
	script, err := os.ReadFile("../.ci/run")
	harness.Must(t, err)
	if len(commands) != 2 || commands[1] != "make test" || !strings.Contains(string(script), "\nmake test-all\n") {
		t.Errorf("the README's commands are %q, and .ci/run is\n%s", commands, script)
	}
}
