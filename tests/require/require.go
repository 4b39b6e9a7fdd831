// Package require finds what tests need beyond Go: programs, and privileges.
//
// On a machine that lacks something the tests that need it are skipped, and
// each is noted in the file that WEIR_MISSING names, for make test to print.
// Where WEIR_REQUIRE_ALL is set, as in CI, they fail.
package require

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Program returns the path of a program, which the Debian package of the given
// name installs.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	// Servers are not on every user's PATH.
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	missing(t, fmt.Sprintf("%s is not installed (apt-get install %s)", name, debianPackage))
	return ""
}

// Root is for tests that mount filesystems or start system services.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "not running as root")
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("WEIR_REQUIRE_ALL") != "" {
		t.Fatal(what)
	}
	if path := os.Getenv("WEIR_MISSING"); path != "" {
		note(t, path, fmt.Sprintf("%s: %s\n", t.Name(), what))
	}
	t.Skip(what)
}

func note(t testing.TB, path, line string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		t.Fatal(err)
	}
}
