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
	// OverShare means that the owner of the download has more bytes than any other,
	// and others have used their content within the last day.
	OverShare
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
	Max      int64 // the limit; 0: only the filesystem's
	Reserved int64 // bytes of running downloads
	Pinned   int64 // bytes of content that is open
	Owner    string
	Own      int64 // bytes of the download's owner, of which
	Running  int64 // are those of running downloads
	Err      error // the failure of the last deletion, if the reason is CannotDelete
}

// Error says where the space is. It names no key of a configuration.
func (e *FullError) Error() string {
	text := spool.ErrNoSpace.Error() + ": "
	switch e.Reason {
	case InUse:
		return text + fmt.Sprintf("%s is needed, but of the store's limit of %s, running downloads take %s and content that is being read takes %s",
			units.IEC(e.Want), units.IEC(e.Max), units.IEC(e.Reserved), units.IEC(e.Pinned))
	case OverShare:
		return text + fmt.Sprintf("repository block %q has %s, more than any other block, and content that other blocks have used within a day is not evicted for it",
			e.Owner, units.IEC(e.Own))
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

// CausedByInput reports whether the download and its like are the cause, and not the
// store: it is larger than the limit, or running downloads of its owner take more than
// half of that, or the owner has more than its share.
func (e *FullError) CausedByInput() bool {
	return e.Reason == OverShare || e.Reason == InUse && (e.Want > e.Max || e.Running > e.Max/2-e.Want)
}

// Is makes the error match spool.ErrNoSpace.
func (e *FullError) Is(target error) bool { return target == spool.ErrNoSpace }

// Unwrap returns the failure of the last deletion, or nil.
func (e *FullError) Unwrap() error { return e.Err }
