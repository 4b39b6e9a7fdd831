package download

import (
	"errors"

	"github.com/weirhq/weir/storage"
)

// result is how a download ended, as metrics name it.
type result string

const (
	stored    result = "stored"
	unstored  result = "unstored"  // the store did not take it
	corrupt   result = "corrupt"   // the bytes did not match the digest
	failed    result = "failed"    // no upstream delivered it
	abandoned result = "abandoned" // no client wanted it any more, or it was taken out of the cache
	slow      result = "slow"      // no client waited, and its bytes came too slowly
)

func results() []result {
	return []result{stored, unstored, corrupt, failed, abandoned, slow}
}

// result returns how the download ended. Its goroutine calls it last, before the
// download's context is canceled for good.
func (d *Download) result() result {
	var store storeError
	err := d.view().err
	switch {
	case d.stored:
		return stored
	case err == nil && d.isForgotten():
		return abandoned
	case err == nil, errors.As(err, &store):
		return unstored
	case errors.Is(err, storage.ErrCorrupt):
		return corrupt
	case isTooSlow(err):
		return slow
	// Only Abandon and Close cancel the context of a running download.
	case d.ctx.Err() != nil:
		return abandoned
	default:
		return failed
	}
}

func isTooSlow(err error) bool {
	_, ok := errors.AsType[*TooSlowError](err)
	return ok
}
