// Package regular opens files that another user or program may have replaced by
// something else.
package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrNotRegular says that a link, a pipe, a socket or a device has the place of a
	// file. A directory is syscall.EISDIR.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge says that a file is larger than it can be.
	ErrTooLarge = errors.New("too large")
)

// Open opens a regular file for reading, and returns what the filesystem says about it. It
// neither follows a link in the place of the file nor waits for the writer of a pipe. Links
// above the file are followed.
func Open(path string) (*os.File, fs.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|onlyRegular, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) { // a link; a socket or a device without a driver
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	default:
		return file, info, nil
	}
	return nil, nil, errors.Join(err, file.Close())
}

// ReadFile reads a regular file of at most limit bytes. The size that a file claims is
// no bound by itself: a file without blocks may claim any.
func ReadFile(path string, limit int64) ([]byte, error) {
	content, _, err := ReadFileInfo(path, limit)
	return content, err
}

// ReadFileInfo is ReadFile, with what the filesystem says about the file.
func ReadFileInfo(path string, limit int64) ([]byte, fs.FileInfo, error) {
	file, info, err := Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if info.Size() > limit {
		return nil, nil, &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	content := make([]byte, info.Size())
	if _, err := io.ReadFull(file, content); err != nil {
		return nil, nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return content, info, nil
}
