package app

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

func TestLeaveAddress(t *testing.T) {
	for bound, want := range map[string]string{
		"127.0.0.1:8000": "127.0.0.1:8000", "0.0.0.0:8000": "localhost:8000", "[::]:8000": "localhost:8000", "[::1]:8000": "[::1]:8000", "10.1.2.3:80": "10.1.2.3:80",
	} {
		dir := t.TempDir()
		address, err := net.ResolveTCPAddr("tcp", bound)
		if err != nil {
			t.Fatal(err)
		}
		forget := leaveAddress(dir, "http", address, discard())
		if got, err := LeftURL(dir); err != nil || got != "http://"+want {
			t.Errorf("%s: left %q, %v, want %q", bound, got, err, want)
		}
		forget()
		if got, err := LeftURL(dir); err != nil || got != "" {
			t.Errorf("%s: still %q, %v", bound, got, err)
		}
	}
}

// The next mirror of a rolling restart has left its address before the old one ends.
func TestForgetKeepsAnothersAddress(t *testing.T) {
	dir := t.TempDir()
	forget := leaveAddress(dir, "http", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, discard())
	leaveAddress(dir, "http", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}, discard())
	forget()
	if got, err := LeftURL(dir); err != nil || got != "http://127.0.0.1:2" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAddressThatCannotBeLeft(t *testing.T) {
	var log testutil.LogBuffer
	forget := leaveAddress(filepath.Join(t.TempDir(), "missing"), "http", &net.TCPAddr{}, slog.New(slog.NewTextHandler(&log, nil)))
	forget()
	if !strings.Contains(log.String(), "cannot write the address for weir healthcheck") {
		t.Errorf("the log is %s", log.String())
	}
}

// A local user may have put anything in the place of the address, or of the new file
// that becomes it.
func TestForeignAddress(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"directory":       func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":            func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"link":            func(path string) error { return os.Symlink("/etc/hostname", path) },
		"link to itself":  func(path string) error { return os.Symlink(addressFile, path) },
		"endless device":  func(path string) error { return os.Symlink("/dev/zero", path) },
		"huge and sparse": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) },
		"long":            func(path string) error { return os.WriteFile(path, make([]byte, 513), 0o600) },
	} {
		dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
		if err := errors.Join(plant(filepath.Join(dir, addressFile)), os.Symlink(victim, filepath.Join(dir, addressFile+".new"))); err != nil {
			t.Fatal(err)
		}
		if got, err := LeftURL(dir); err == nil {
			t.Errorf("%s: the address is %q", name, got)
		}
		leaveAddress(dir, "http", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, discard())
		if got, err := LeftURL(dir); name != "directory" && got != "http://127.0.0.1:1" {
			t.Errorf("%s: %q, %v after an address was left", name, got, err)
		}
		if _, err := os.Lstat(victim); err == nil {
			t.Errorf("%s: a file was written through a link", name)
		}
	}
}
