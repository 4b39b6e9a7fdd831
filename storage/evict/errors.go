package evict

import (
	"fmt"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage/spool"
)

// Reason is why there is no room for a download.
type Reason uint8

const (
	// InUse means that running downloads and open content leave too little, or
	// that the download is larger than the limit.
	InUse Reason = iota + 1
	// TooSlow means that nothing was deleted in time.
	TooSlow
	// CannotDelete means that deletions fail.
	CannotDelete
	// notIndexed means that the number of stored bytes is not known yet.
	notIndexed
	// closing means that the store is being closed.
	closing
)

// FullError says that the limit leaves no room for a download. It matches
// [spool.ErrNoSpace].
type FullError struct {
	Reason   Reason
	Want     int64 // bytes
	Max      int64 // the limit
	Reserved int64 // bytes of running downloads
	Pinned   int64 // bytes of content that is open
	Err      error // the failure of the last deletion, if the reason is CannotDelete
}

// Error says where the space is. It names no key of a configuration.
func (e *FullError) Error() string {
	text := spool.ErrNoSpace.Error() + ": "
	switch e.Reason {
	case InUse:
		return text + fmt.Sprintf("%s wanted; of the store's limit of %s, running downloads take %s and content that is being read %s",
			units.IEC(e.Want), units.IEC(e.Max), units.IEC(e.Reserved), units.IEC(e.Pinned))
	case TooSlow:
		return text + fmt.Sprintf("nothing was deleted in time to make room for %s within the store's limit of %s", units.IEC(e.Want), units.IEC(e.Max))
	case CannotDelete:
		return text + fmt.Sprintf("nothing can be deleted to make room for %s: %v", units.IEC(e.Want), e.Err)
	case notIndexed:
		return text + "the index of the store is still being loaded, so the number of stored bytes is not known yet"
	default:
		return text + "the store is being closed"
	}
}

// CausedByInput reports whether the download is larger than the limit, which no
// eviction can change.
func (e *FullError) CausedByInput() bool { return e.Reason == InUse && e.Want > e.Max }

// Is makes the error match spool.ErrNoSpace.
func (e *FullError) Is(target error) bool { return target == spool.ErrNoSpace }

// Unwrap returns the failure of the last deletion, or nil.
func (e *FullError) Unwrap() error { return e.Err }
