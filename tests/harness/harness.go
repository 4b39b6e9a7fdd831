// Package harness has the parts of black-box tests: the real binary as a running
// mirror, real registries and daemons, and images to push. It imports nothing of
// the mirror but the helpers of its tests.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// binaryDir is the directory of the built mirror. Main makes and removes it.
var binaryDir string

// buildOnce builds the mirror, with the race detector if the tests have it. It runs when the
// first test needs the binary, so that tests which need none do not wait for it.
var buildOnce = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(binaryDir, "weir")
	// Go keeps the programs that it runs, so that one package of tests links the mirror for all.
	// The program is copied in place of being run.
	run := exec.Command("go", "run", fmt.Sprintf("-race=%t", Raced), "-ldflags=-w", "-exec", `sh -c 'cp "$0" "$WEIR_COPY"'`, "github.com/weirhq/weir/cmd/weir")
	run.Env = append(os.Environ(), "WEIR_COPY="+path)
	if out, err := run.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the mirror: %w\n%s", err, out)
	}
	return path, nil
})

// Binary returns the path of the mirror's binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// BuildShipped builds the mirror without the race detector, as it is shipped, with more
// flags of go build, and returns the path of the binary.
func BuildShipped(t testing.TB, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir")
	build := exec.CommandContext(t.Context(), testutil.Program(t, "make", "make"), "-C", root(), "build", "BINARY="+path)
	build.Env = append(os.Environ(), "GOFLAGS="+strings.Join(flags, " "))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the mirror: %v\n%s", err, out)
	}
	return path
}

// root returns the directory of the module. Tests begin in the directory of their package.
var root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("no directory above that of the tests has a go.mod")
		}
		dir = filepath.Dir(dir)
	}
	if err != nil {
		panic(err)
	}
	return dir
})

// Main runs the tests of a package and ends the process. TestMain calls it.
func Main(m interface{ Run() int }) {
	dir, err := os.MkdirTemp("", "weir-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaryDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// Patience bounds every wait for something that ought to happen at once. On a busy machine a
// mirror may find Redis or a bucket away for a moment, which costs it several seconds each time.
const Patience = 2 * time.Minute

// Must fails the test on an error that only a broken test can meet.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until a condition holds that the mirror brings about by
// itself, and fails the test if it never does.
func Eventually(t *testing.T, condition string, holds func() bool) {
	t.Helper()
	if !Within(Patience, holds) {
		t.Fatalf("waited in vain: %s", condition)
	}
}

// Within waits until a condition holds, for some time at most, and reports
// whether it does.
func Within(d time.Duration, holds func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(d)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// Run runs a program to its end and returns both of its outputs.
func Run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// WriteFile writes a file that only its owner can read.
func WriteFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
