package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	_, file, _, _ := runtime.Caller(0)
	build := exec.CommandContext(t.Context(), "go", "tool", "-n", name)
	build.Dir = filepath.Join(filepath.Dir(file), "../tools", module)
	// Without debugging information it is linked in half the time.
	build.Env = append(os.Environ(), "GOFLAGS=-ldflags=-s")
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
