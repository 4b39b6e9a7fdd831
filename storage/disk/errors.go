package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// advice says what an operator can do about an error of the filesystem.
var advice = []struct {
	err  error
	text string
}{
	{syscall.ENOSPC, "free space or inodes on this filesystem, or lower blob_store.fs.max_size"},
	{syscall.EDQUOT, "raise the quota, or lower blob_store.fs.max_size"},
	{syscall.EROFS, "mount this filesystem writable, or set blob_store.fs.root_dir to another one"},
	{syscall.ENOTDIR, "something else has taken the place of a directory of the store: move it away, or correct blob_store.fs.root_dir"},
	{syscall.EISDIR, "a directory has taken the place of a file of the store: move it away"},
	{syscall.EMFILE, "raise the limit on open files (ulimit -n)"},
	{syscall.ENFILE, "raise the system's limit on open files (fs.file-max)"},
	{syscall.EIO, "check the disk: the kernel's log has the details"},
	{syscall.ESTALE, "mount this filesystem again"},
	{fs.ErrPermission, "make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as"},
	{fs.ErrNotExist, "a directory of the store has vanished: check that its volume is mounted, and restart weir"},
}

// explain wraps an error of the filesystem, which names the path, with what was
// being done and what the operator can do about it.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return fmt.Errorf("disk: cannot %s: %w (%s)", doing, err, a.text)
		}
	}
	return fmt.Errorf("disk: cannot %s: %w", doing, err)
}
