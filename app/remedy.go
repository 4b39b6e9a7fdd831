package app

import (
	"errors"

	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/spool"
)

// WithAdvice returns an error whose text ends with advice for the operator, if
// there is any.
func WithAdvice(err error) error {
	if remedyOf(err) == "" {
		return err
	}
	return advisedError{err}
}

type advisedError struct{ error }

func (e advisedError) Error() string { return advised(e.error) }

func (e advisedError) Unwrap() error { return e.error }

// diskRemedies are the remedies for failures of the store's filesystem.
var diskRemedies = map[disk.Reason]string{
	disk.Full:         "Free space or inodes on this filesystem, or lower blob_store.fs.max_size.",
	disk.OverQuota:    "Raise the disk quota, or lower blob_store.fs.max_size.",
	disk.ReadOnly:     "Mount this filesystem writable, or set blob_store.fs.root_dir to another one.",
	disk.NotDirectory: "Move away the file in the place of this directory, or correct blob_store.fs.root_dir.",
	disk.IsDirectory:  "Move away the directory in the place of this file.",
	disk.ProcessFiles: "Raise the limit on open files (ulimit -n).",
	disk.SystemFiles:  "Raise the system's limit on open files (fs.file-max).",
	disk.Damaged:      "Check the disk. The kernel's log has the details.",
	disk.Stale:        "Mount this filesystem again.",
	disk.Forbidden:    "Make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as.",
	disk.Vanished:     "Check that the volume of this directory is mounted, and restart weir.",
}

// filesystemRemedy returns the remedy for a failure of the store's filesystem, or
// "" if there is none.
func filesystemRemedy(err error) string {
	if failed, ok := errors.AsType[*disk.Error](err); ok {
		return diskRemedies[failed.Reason]
	}
	noSpace, short := errors.AsType[*spool.NoSpaceError](err)
	switch {
	case errors.Is(err, disk.ErrNoStore):
		return "Correct blob_store.fs.root_dir, or let weir serve make the store first."
	case errors.Is(err, disk.ErrNoRoot):
		return "Set blob_store.fs.root_dir."
	case short && noSpace.Err != nil:
		return "Free space on this filesystem, or raise the disk quota."
	case short:
		return "Free space on this filesystem, or lower blob_store.fs.min_free."
	default:
		return ""
	}
}
