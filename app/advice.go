package app

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/weirhq/weir/internal/shortage"
	"github.com/weirhq/weir/internal/whoami"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/upstream"
)

// Packages below app return typed reasons and know no configuration. The tables of
// this file and of advice_wire.go turn the reasons into sentences with keys: this one
// for the log, /readyz and the commands, the other one for clients.

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

// advised returns the text of an error for the operator: the cause, then a sentence
// about the remedy if there is one.
func advised(err error) string {
	text := err.Error() + owner(err)
	if remedy := remedyOf(err); remedy != "" {
		text = strings.TrimSuffix(text, ".") + ". " + remedy // a server's own words may end with one
	}
	return text
}

// owner returns the sentence that says whose rights a failure is about. It is empty if
// the failure is no lack of rights in the store.
func owner(err error) string {
	failed, isDisk := errors.AsType[*disk.Error](err)
	path, hasPath := errors.AsType[*fs.PathError](err)
	_, done := errors.AsType[advisedError](err)
	if !isDisk || failed.Reason != disk.Forbidden || done {
		return ""
	}
	sentence := ". It runs as " + whoami.User()
	if hasPath {
		if belongs := whoami.Owner(path.Path); belongs != "" {
			sentence += "; " + belongs
		}
	}
	return sentence
}

// public returns the text of a store's error for answers that everyone can read: without
// paths and users, and with the sentence about the remedy. An error of another kind may
// name anything, so its text stays in the log.
func public(err error) string {
	text, cause := "the log has the reason", error(nil)
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		cause = path.Err
	} else if link, ok := errors.AsType[*os.LinkError](err); ok {
		cause = link.Err
	}
	failed, isDisk := errors.AsType[*disk.Error](err)
	switch {
	case errors.Is(err, spool.ErrNoSpace):
		text = "not enough free space"
	case isDisk && cause != nil:
		text = "cannot " + failed.Doing + ": " + cause.Error()
	case cause != nil:
		text = cause.Error()
	}
	if remedy := remedyOf(err); remedy != "" {
		text = strings.TrimSuffix(text, ".") + ". " + remedy // a server's own words may end with one
	}
	return text
}

// raiseFiles is the remedy for a lack of open files of the process.
const raiseFiles = "Raise the limit on open files of the mirror: LimitNOFILE of its service, or ulimit -n"

// freeSpace is the remedy for a filesystem that cannot keep min_free.
const freeSpace = "Free space on this filesystem, or lower blob_store.fs.min_free."

// remedyOf returns the sentence that tells an operator how to end a failure of the
// store, or how to get content of an offline namespace, with the keys of the
// configuration. It is empty if nothing can be changed.
func remedyOf(err error) string {
	if _, done := errors.AsType[advisedError](err); done {
		return "" // the text has it already
	}
	if remedy := bucketRemedy(err); remedy != "" {
		return remedy
	}
	// A failed deletion keeps the store full: the remedy for its cause comes first.
	if failed, ok := errors.AsType[*disk.Error](err); ok {
		if remedy := diskRemedy(failed.Reason); remedy != "" {
			return remedy
		}
	}
	offline, isOffline := errors.AsType[*namespace.OfflineError](err)
	_, tooSlow := errors.AsType[*download.TooSlowError](err)
	full, isFull := errors.AsType[*evict.FullError](err)
	noSpace, short := errors.AsType[*spool.NoSpaceError](err)
	_, crowded := errors.AsType[*upstream.CrowdedError](err)
	lack := shortage.Of(err)
	switch {
	case lack == syscall.EMFILE:
		return raiseFiles + "."
	case lack == syscall.ENFILE:
		return diskRemedy(disk.SystemFiles)
	case lack != nil:
		return "Check the connections (ss -s), the local ports and the memory of the mirror's machine."
	case errors.Is(err, disk.ErrNoStore):
		return "Correct blob_store.fs.root_dir, or create the store by starting weir serve."
	case errors.Is(err, disk.ErrNoRoot):
		return "Set blob_store.fs.root_dir."
	case short && noSpace.Err != nil:
		// The write itself failed, so min_free has not kept the filesystem from
		// filling up.
		return "Free space on this filesystem, or raise the disk quota."
	case short:
		return freeSpace
	case tooSlow:
		return "Check the upstream, or lower global.min_speed if it is always that slow."
	case crowded:
		return "Raise max_connections of this upstream if it can take more."
	case isFull:
		return evictRemedy(full)
	case isOffline:
		return offlineRemedy(offline) + "."
	default:
		return ""
	}
}

// evictRemedy returns the remedy for a store whose limit leaves no room. It is empty
// if the next download will find room.
func evictRemedy(full *evict.FullError) string {
	switch full.Reason {
	case evict.OverShare:
		if full.Max == 0 {
			return freeSpace
		}
		return "Raise blob_store.fs.max_size if this block needs it."
	case evict.InUse:
		return "Raise blob_store.fs.max_size if this happens often."
	case evict.TooSlow:
		return "Check the speed of the disk, or raise blob_store.fs.max_size."
	case evict.CannotDelete:
		return "Check that blob_store.fs.root_dir is writable."
	default:
		return ""
	}
}

// diskRemedy returns the remedy for a failure of the store's filesystem. It is empty
// if the kind of the failure does not tell.
func diskRemedy(reason disk.Reason) string {
	switch reason {
	case disk.Full:
		return "Free space or inodes on this filesystem, or lower blob_store.fs.max_size."
	case disk.OverQuota:
		return "Raise the disk quota, or lower blob_store.fs.max_size."
	case disk.ReadOnly:
		return "Mount this filesystem writable, or set blob_store.fs.root_dir to another one."
	case disk.NotDirectory:
		return "There is a file at the path of this directory. Move it away, or correct blob_store.fs.root_dir."
	case disk.IsDirectory:
		return "There is a directory at the path of this file. Move it away."
	case disk.NotRegular:
		return "There is a link, pipe or device at the path of this file. Move it away."
	case disk.TooLarge:
		return "Move away this file."
	case disk.Torn:
		return "Check the disk, unless there was a power failure."
	case disk.Exposed:
		return "Run chmod o-w,g-w on it, or set blob_store.fs.root_dir to a new directory below it, which weir creates."
	case disk.ForeignOwner:
		return "Run chown -R on it for the user that weir runs as, or set blob_store.fs.root_dir to a directory of that user."
	case disk.ProcessFiles:
		return raiseFiles + "."
	case disk.SystemFiles:
		return "Raise the system's limit on open files (fs.file-max)."
	case disk.Damaged:
		return "Check the disk. The kernel's log has the details."
	case disk.Stale:
		return "Mount this filesystem again."
	case disk.Forbidden:
		return "Make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as."
	case disk.Vanished:
		return "Check that the volume of this directory is mounted, and restart weir."
	default:
		return ""
	}
}
