package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/weirhq/weir/internal/regular"
)

// Reason is the kind of a filesystem's failure, by its remedy.
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
	NotRegular          // a link, a pipe or a device has the place of a file of the store
	TooLarge            // a record is larger than any that the store writes
	Torn                // a record does not have the bytes that were written
	Exposed             // other users may write to a directory of the store
	ForeignOwner        // a directory of the store belongs to another user
)

// reasons has the first match first.
var reasons = []struct {
	err    error
	reason Reason
}{
	{syscall.ENOSPC, Full},
	{syscall.EDQUOT, OverQuota},
	{syscall.EROFS, ReadOnly},
	{syscall.ENOTDIR, NotDirectory},
	{syscall.EISDIR, IsDirectory},
	{regular.ErrNotRegular, NotRegular},
	{syscall.ELOOP, NotRegular},
	{syscall.ENXIO, NotRegular}, // a socket, or a device without a driver
	{regular.ErrTooLarge, TooLarge},
	{errTorn, Torn},
	{errExposed, Exposed},
	{errForeignOwner, ForeignOwner},
	{syscall.EMFILE, ProcessFiles},
	{syscall.ENFILE, SystemFiles},
	{syscall.EIO, Damaged},
	{syscall.ESTALE, Stale},
	{fs.ErrPermission, Forbidden},
	{fs.ErrNotExist, Vanished},
}

// Error is a failure of the store's filesystem.
type Error struct {
	Doing  string // such as "open the store"
	Reason Reason
	Err    error // of the filesystem; it names the path
}

// Error names the attempt and the cause of its failure.
func (e *Error) Error() string {
	return fmt.Sprintf("disk: cannot %s: %v", e.Doing, e.Err)
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

// damages are the errors of reading bytes that a disk has lost: those of the kernel's
// block layer, and those of filesystems with checksums. No socket has them.
var damages = []error{
	syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.ENODATA, syscall.EREMOTEIO, syscall.EILSEQ,
}

// IsDamage reports whether a stored file could not be read since its disk or filesystem
// is damaged. The error may be that of sending the file to a client.
func IsDamage(err error) bool {
	return slices.ContainsFunc(damages, func(damage error) bool { return errors.Is(err, damage) })
}
