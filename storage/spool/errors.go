package spool

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/weirhq/weir/internal/units"
)

// ErrNoSpace says that a spool would leave its filesystem with less free space
// than it must keep, or that there is none left. The error that matches it is a
// [*NoSpaceError] or a quota's own.
var ErrNoSpace = errors.New("spool: not enough free space")

// ErrBusy says that there is no room until something has been evicted. Only a
// caller that does not wait for that gets it.
var ErrBusy = errors.New("spool: space must be freed first")

// NoSpaceError says how the filesystem of the spools lacks space. It matches
// [ErrNoSpace].
type NoSpaceError struct {
	Path string // a directory of the filesystem

	// Free bytes, less those Promised to running downloads, must not fall below
	// Keep, and Want more were asked for.
	Want, Free, Promised, Keep int64

	Removable int64 // bytes of content that could have been removed for it
	Own       int64 // bytes that the download has already
	Total     int64 // bytes of the whole filesystem

	// Err is the failed write, if the filesystem or a disk quota of its user is
	// full; then the numbers are zero.
	Err error
}

// Error says how the space is taken.
func (e *NoSpaceError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %v", ErrNoSpace, e.Err)
	}
	return fmt.Sprintf("%v below %s: %s free, %s promised to running downloads, %s needed, %s to be kept free",
		ErrNoSpace, e.Path, units.IEC(e.Free), units.IEC(e.Promised), units.IEC(e.Want), units.IEC(e.Keep))
}

// usual is the size of most layers, and of the other content of images. A filesystem
// that has room for it works.
const usual = 16 << 20

// CausedByInput reports whether the download is the cause and not the filesystem: the
// filesystem has room for usual content and not for so much, or it could never hold it.
func (e *NoSpaceError) CausedByInput() bool {
	room := e.Free - e.Promised - e.Keep + e.Removable + e.Own
	whole := e.Want + e.Own
	return e.Err == nil && whole > room && (room >= usual || room > 0 && whole > e.Total-e.Keep)
}

// Is makes the error match ErrNoSpace.
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }

// Unwrap returns the failed write, or nil.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// writeError gives a failed write its type.
func (d *Dir) writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &NoSpaceError{Path: d.path, Err: err}
	}
	return fmt.Errorf("spool: %w", err)
}
