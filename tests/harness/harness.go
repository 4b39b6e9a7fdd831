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
	"testing"
	"time"
)

// binary is the path of the mirror that Main has built.
var binary string

// Binary returns the path of the mirror's binary.
func Binary() string { return binary }

// Main builds the mirror, with the race detector, runs the tests of a package,
// and ends the process. It is what TestMain is for.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "weir-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-race", "-o", binary, "github.com/weirhq/weir/cmd/weir")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the mirror:", err)
	} else {
		code = m.Run()
	}
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
