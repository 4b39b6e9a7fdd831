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

	"github.com/weirhq/weir/tests/harness"
)

// readmeCommands are the shell blocks of the README, in their order.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../README.md")
	harness.Must(t, err)
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(page, -1) {
		commands = append(commands, strings.TrimSpace(string(block[1])))
	}
	return commands
}

// The first command of the README, as it stands, serves on port 8000.
func TestReadmeServes(t *testing.T) {
	command := readmeCommands(t)[0]
	if command != "go run ./cmd/weir serve" {
		t.Fatalf("the README's first command is %q", command)
	}
	// In a copy, so that its data is not left in the tree.
	dir := t.TempDir()
	harness.Run(t, exec.CommandContext(t.Context(), "sh", "-c", `cd .. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, dir))
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec "+command)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log := &harness.LogBuffer{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	harness.Must(t, err)
	harness.Must(t, cmd.Start())
	defer func() {
		// As Ctrl-C does: on SIGTERM go run would leave what it has built.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "weir: listening on http://127.0.0.1:8000" {
		t.Fatalf("it printed %q, %v\n%s", line, err, log)
	}
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

// The second command is the one that CI runs.
func TestReadmeTests(t *testing.T) {
	command := readmeCommands(t)[1]
	script, err := os.ReadFile("../.ci/run")
	harness.Must(t, err)
	if command != "make test" || !strings.Contains(string(script), "\n"+command+"\n") {
		t.Errorf("the README's second command is %q, and .ci/run is\n%s", command, script)
	}
}

// The README's configuration is one.
func TestReadmeConfiguration(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	harness.Must(t, err)
	block := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(page)
	dir := t.TempDir()
	secret := filepath.Join(dir, "hub")
	harness.WriteFile(t, secret, "secret")
	file := filepath.Join(dir, "config.toml")
	harness.WriteFile(t, file, strings.ReplaceAll(string(block[1]), "/run/secrets/hub", secret))
	harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(), "check", "--config", file))
}
