package app

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/internal/whoami"
)

// addressFile is the file in the data directory that holds the URL of the
// running mirror. With it weir healthcheck finds a mirror whose configuration file
// cannot be used any more, or that has a port of the system's choice.
const addressFile = "address"

// maxAddress is more than the 253 bytes of the longest host name, with a port.
const maxAddress = 512

// leaveAddress writes the URL of a listener into the data directory, and returns a
// function that removes it. A failure costs no client anything, so it is logged.
func leaveAddress(dir, scheme string, address net.Addr, logger *slog.Logger) (forget func()) {
	path, line := filepath.Join(dir, addressFile), scheme+"://"+reachable(address)+"\n"
	// Renamed into place, so that a healthcheck reads it whole.
	if err := replaceFile(path, line); err != nil {
		logger.Warn("cannot write the address for weir healthcheck, which will use the address in the configuration", "error", whoami.Explain(err))
		return func() {}
	}
	return func() {
		// During a rolling restart the file may be the next mirror's already.
		if there, err := regular.ReadFile(path, maxAddress); err == nil && string(there) == line {
			_ = os.Remove(path) // a healthcheck of an address without a mirror fails, too
		}
	}
}

// replaceFile writes a file that all users may read, by way of a new one with a name
// that no other program can have prepared.
func replaceFile(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first failure says more
	}
	return err
}

// reachable returns the address of a listener as it is reached from this machine.
func reachable(address net.Addr) string {
	host, port, err := net.SplitHostPort(address.String())
	if err != nil || !hosts.Unspecified(host) {
		return address.String()
	}
	return net.JoinHostPort("localhost", port)
}

// LeftURL returns the URL that a mirror has left in its data directory. It returns "" if
// there is none.
func LeftURL(dir string) (string, error) {
	content, err := regular.ReadFile(filepath.Join(dir, addressFile), maxAddress)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", whoami.Explain(err)
	}
	line := strings.TrimSpace(string(content))
	// Versions without TLS have left an address alone, and may still run.
	if line != "" && !strings.Contains(line, "://") {
		line = "http://" + line
	}
	return line, nil
}
