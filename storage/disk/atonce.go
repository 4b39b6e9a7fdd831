package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/internal/regular"
)

// A link in the place of a directory of the store must not lead out of it. Linux 5.6 and
// later refuse links anywhere in a path by themselves (openat2(2)), in the same call that
// opens the file. This file opens paths so, and reports errUnsure for all that is out of the
// ordinary: a link or a foreign file, an older kernel, a sandbox without the call, a root
// below a link. Then the caller looks at each part of the path by itself, and finds the cause.

// errUnsure says that a path could not be opened at once, whatever it leads to.
var errUnsure = errors.New("the path has to be looked at part by part")

// refusesLinks reports whether the kernel opens the root of a store in this way.
func refusesLinks(root string) bool {
	fd, err := openNoLinks(root, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

// openNoLinks opens a path that has no link in any part.
func openNoLinks(path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// atOnce opens a path below the root. It returns fs.ErrNotExist if there is nothing, and
// errUnsure after any other failure.
func (t *tree) atOnce(path string, flags uint64) (int, error) {
	if !t.refusing {
		return -1, errUnsure
	}
	fd, err := openNoLinks(path, flags)
	switch err {
	case nil:
		return fd, nil
	case unix.ENOENT:
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	default:
		return -1, errUnsure
	}
}

// onlyRead opens a file for reading, and does not wait for the writer of a pipe.
const onlyRead = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// openAtOnce opens a regular file.
func (t *tree) openAtOnce(path string) (*os.File, fs.FileInfo, error) {
	fd, err := t.atOnce(path, onlyRead)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, nil, errUnsure
	}
	return file, info, nil
}

// readAtOnce reads a regular file of at most limit bytes, and reports whether it bears the
// mark.
func (t *tree) readAtOnce(path string, limit int64) (content []byte, marked bool, err error) {
	fd, err := t.atOnce(path, onlyRead)
	if err != nil {
		return nil, false, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, false, errUnsure
	}
	if stat.Size > limit {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: regular.ErrTooLarge}
	}
	content = make([]byte, stat.Size)
	if err := readFull(fd, content); err != nil {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return content, stat.Mode&unix.S_ISVTX != 0, nil
}

// readFull reads as many bytes as content has. It returns io.ErrUnexpectedEOF if there are
// fewer.
func readFull(fd int, content []byte) error {
	for len(content) > 0 {
		n, err := unix.Read(fd, content)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			content = content[n:]
		}
	}
	return nil
}

// sizeAtOnce returns the size of a regular file.
func (t *tree) sizeAtOnce(path string) (int64, error) {
	fd, err := t.atOnce(path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errUnsure
	}
	return stat.Size, nil
}

// placeAtOnce moves a staged file to its final path, if the directory is there. It returns
// the size of the file that was replaced, or absent. It reports false if nothing was moved.
// Where each directory is flushed by itself, it leaves that to place: a directory that is
// there may not be flushed yet.
func (t *tree) placeAtOnce(staged, path string) (before int64, placed bool) {
	if t.each() {
		return absent, false
	}
	dir, err := t.atOnce(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return absent, false
	}
	defer unix.Close(dir)
	name, stat := filepath.Base(path), unix.Stat_t{}
	before = absent
	// Most records are new. A filesystem that cannot tell places none in this way.
	if unix.Renameat2(unix.AT_FDCWD, staged, dir, name, unix.RENAME_NOREPLACE) == nil {
		return absent, true
	}
	if unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
		before = stat.Size
	}
	return before, unix.Renameat(unix.AT_FDCWD, staged, dir, name) == nil
}
