package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Tool builds a program that Debian has no package of: one of the tools of a
// module below tests/tools, in the version and with the dependencies of that
// module. It returns the program's path, which is in Go's build cache, so that
// a machine links it once.
func Tool(t *testing.T, module, name string) string {
	t.Helper()
	testutil.Long(t, "compiles "+name)
	build := exec.CommandContext(t.Context(), "go", "tool", "-n", name)
	build.Dir = filepath.Join(root(), "tests/tools", module)
	// Without debugging information it is linked in half the time. What it shares with
	// other programs and the shipped mirror is compiled once.
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -ldflags=-s")
	return Output(t, build)
}

// Output runs a program to its end and returns its standard output without
// white space around it. Run returns the standard error too.
func Output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var notes testutil.LogBuffer
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, &notes)
	}
	return strings.TrimSpace(string(out))
}
