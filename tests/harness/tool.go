package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Tool builds a program of a module of tests/tools and returns its path, which
// is in Go's build cache: a program is linked once on a machine.
func Tool(t *testing.T, module, name string) string {
	t.Helper()
	root := filepath.Dir(output(t, exec.CommandContext(t.Context(), "go", "env", "GOMOD")))
	build := exec.CommandContext(t.Context(), "go", "tool", "-n", name)
	build.Dir = filepath.Join(root, "tests/tools", module)
	build.Env = append(os.Environ(), "GOFLAGS=-ldflags=-s")
	return output(t, build)
}

// output runs a program to its end and returns the one line that it is asked
// for. What it says beside that is for the test's log.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var notes LogBuffer
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, &notes)
	}
	return strings.TrimSpace(string(out))
}
