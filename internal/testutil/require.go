package testutil

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

// Root skips a test that mounts filesystems or starts system services, unless
// it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "not running as root")
	}
}

// missing skips the test for the given reason and notes that in the file that
// WEIR_MISSING names, for make to print at its end. If WEIR_REQUIRE_ALL is set,
// as it is in CI, the test fails.
func missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("WEIR_REQUIRE_ALL") != "" {
		t.Fatal(reason)
	}
	if path := os.Getenv("WEIR_MISSING"); path != "" {
		note(t, path, fmt.Sprintf("%s: %s\n", t.Name(), reason))
	}
	t.Skip(reason)
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
