//go:build unix

package regular

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Create creates a file for reading and writing, and fails if there is one. Unlike
// os.OpenFile it does not offer the file to the poller, which takes five further calls and
// refuses every regular file.
func Create(path string, mode fs.FileMode) (*os.File, error) {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, bits)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR:
		default:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// Rename moves a file, and replaces another one. Unlike os.Rename it does not look at the
// target before: the kernel refuses to replace a directory by a file, with EISDIR.
func Rename(from, to string) error {
	for {
		switch err := unix.Rename(from, to); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}
