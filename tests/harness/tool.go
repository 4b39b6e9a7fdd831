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
	root := filepath.Dir(Output(t, exec.CommandContext(t.Context(), "go", "env", "GOMOD")))
	build := exec.CommandContext(t.Context(), "go", "tool", "-n", name)
	build.Dir = filepath.Join(root, "tests/tools", module)
	build.Env = append(os.Environ(), "GOFLAGS=-ldflags=-s")
	return Output(t, build)
}

// Output runs a program to its end and returns what it printed on its standard
// output, without white space around it. Run has its notes too.
func Output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var notes LogBuffer
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, &notes)
	}
	return strings.TrimSpace(string(out))
}
