package app

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
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
		forget := leaveAddress(dir, address, discard())
		if got, err := LeftAddress(dir); err != nil || got != want {
			t.Errorf("%s: left %q, %v, want %q", bound, got, err, want)
		}
		forget()
		if got, err := LeftAddress(dir); err != nil || got != "" {
			t.Errorf("%s: still %q, %v", bound, got, err)
		}
	}
}

// The next mirror of a rolling restart has left its address before the old one ends.
func TestForgetKeepsAnothersAddress(t *testing.T) {
	dir := t.TempDir()
	forget := leaveAddress(dir, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, discard())
	leaveAddress(dir, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}, discard())
	forget()
	if got, err := LeftAddress(dir); err != nil || got != "127.0.0.1:2" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAddressThatCannotBeLeft(t *testing.T) {
	var log testutil.LogBuffer
	forget := leaveAddress(filepath.Join(t.TempDir(), "missing"), &net.TCPAddr{}, slog.New(slog.NewTextHandler(&log, nil)))
	forget()
	if !strings.Contains(log.String(), "cannot leave the address for weir healthcheck") {
		t.Errorf("the log is %s", log.String())
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, addressFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := LeftAddress(dir); err == nil {
		t.Errorf("a directory is the address %q", got)
	}
}
