// Package harness is what black-box tests are made of: the real binary as a
// running mirror, real registries and daemons, and images to push. It imports
// nothing of the mirror.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binaryDir is the directory of the built mirror. Main makes and removes it.
var binaryDir string

// buildOnce builds the mirror with the race detector. It runs when the first
// test needs the binary, so that tests which need none do not wait for it.
var buildOnce = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(binaryDir, "weir")
	build := exec.Command("go", "build", "-race", "-o", path, "github.com/weirhq/weir/cmd/weir")
	if out, err := build.CombinedOutput(); err != nil {
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

// Main runs the tests of a package and ends the process. TestMain calls it.
func Main(m *testing.M) {
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

// Patience bounds every wait for something that ought to happen at once.
const Patience = 30 * time.Second

// Must fails the test on an error that only a broken test can meet.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits for something that the mirror does by itself, and fails the
// test when it does not.
func Eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Run runs a program to its end and returns what it printed on both outputs.
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
