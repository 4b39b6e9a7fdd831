package harness

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// BuildTools builds programs that Debian has no package of, each from its own
// release and with what that requires: the packages of a module below
// tests/tools. It returns the directory that they are in.
func BuildTools(t *testing.T, module string, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	_, file, _, _ := runtime.Caller(0)
	// Without what debuggers need they are linked in half the time.
	build := exec.CommandContext(t.Context(), "go", append([]string{"build", "-ldflags=-s -w", "-o", dir + "/"}, packages...)...)
	build.Dir = filepath.Join(filepath.Dir(file), "../tools", module)
	Run(t, build)
	return dir
}
