package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Reason is the kind of a filesystem's failure, by what mends it.
type Reason uint8

const (
	Other        Reason = iota
	Full                // no free space, or no free inodes
	OverQuota           // the disk quota of the user is used up
	ReadOnly            // the filesystem is mounted read-only
	NotDirectory        // a file has the place of a directory of the store
	IsDirectory         // a directory has the place of a file of the store
	ProcessFiles        // the process has too many open files
	SystemFiles         // the system has too many open files
	Damaged             // an input/output error
	Stale               // a network filesystem has to be mounted again
	Forbidden           // the user may not read or write
	Vanished            // a directory of the store is gone
)

// reasons has the first match first.
var reasons = []struct {
	err    error
	reason Reason
	advice string
}{
	{syscall.ENOSPC, Full, "free space or inodes on this filesystem, or lower blob_store.fs.max_size"},
	{syscall.EDQUOT, OverQuota, "raise the quota, or lower blob_store.fs.max_size"},
	{syscall.EROFS, ReadOnly, "mount this filesystem writable, or set blob_store.fs.root_dir to another one"},
	{syscall.ENOTDIR, NotDirectory, "something else has taken the place of a directory of the store: move it away, or correct blob_store.fs.root_dir"},
	{syscall.EISDIR, IsDirectory, "a directory has taken the place of a file of the store: move it away"},
	{syscall.EMFILE, ProcessFiles, "raise the limit on open files (ulimit -n)"},
	{syscall.ENFILE, SystemFiles, "raise the system's limit on open files (fs.file-max)"},
	{syscall.EIO, Damaged, "check the disk: the kernel's log has the details"},
	{syscall.ESTALE, Stale, "mount this filesystem again"},
	{fs.ErrPermission, Forbidden, "make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as"},
	{fs.ErrNotExist, Vanished, "a directory of the store has vanished: check that its volume is mounted, and restart weir"},
}

// Error is a failure of the store's filesystem.
type Error struct {
	Doing  string // such as "open the store"
	Reason Reason
	Err    error // of the filesystem; it names the path
}

// Error says what failed and why.
func (e *Error) Error() string {
	text := fmt.Sprintf("disk: cannot %s: %v", e.Doing, e.Err)
	for _, r := range reasons {
		if r.reason == e.Reason {
			text += " (" + r.advice + ")"
		}
	}
	return text
}

// Unwrap returns the error of the filesystem.
func (e *Error) Unwrap() error { return e.Err }

// explain gives an error of the filesystem its reason. It returns nil for nil.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Doing: doing, Err: err}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			e.Reason = r.reason
			break
		}
	}
	return e
}
