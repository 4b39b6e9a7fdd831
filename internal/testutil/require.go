package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// heavyPackages are the Debian packages that take minutes to install, or whose
// tests build the image or the static binary. Tests that need them are long.
// tests/deps.sh lists them too.
func heavyPackages() []string {
	return []string{"docker.io", "docker-compose", "containerd", "podman", "buildah", "runc", "prometheus", "systemd", "chromium"}
}

// Long skips a test with go test -short and notes that in the file that
// WEIR_LEFT_OUT names, for make to print at its end.
func Long(t testing.TB, reason string) {
	t.Helper()
	if testing.Short() {
		skip(t, "WEIR_LEFT_OUT", reason)
	}
}

// Program returns the path of a program, which the Debian package of the given
// name installs.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	if slices.Contains(heavyPackages(), debianPackage) {
		Long(t, "needs "+debianPackage)
	}
	// Servers are not on every user's PATH.
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	Missing(t, fmt.Sprintf("%s is not installed (apt-get install %s)", name, debianPackage))
	return ""
}

// Root skips a test that mounts filesystems or starts system services, unless
// it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "not running as root")
	}
}

// Missing skips the test for the given reason and notes that in the file that
// WEIR_MISSING names, for make to print at its end. If WEIR_REQUIRE_ALL is set,
// as it is in CI, the test fails.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("WEIR_REQUIRE_ALL") != "" {
		t.Fatal(reason)
	}
	skip(t, "WEIR_MISSING", reason)
}

// skip skips the test and adds a line to the file that an environment variable
// names, if it is set.
func skip(t testing.TB, variable, reason string) {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
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
