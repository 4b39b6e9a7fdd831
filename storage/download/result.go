package download

import (
	"errors"

	"github.com/weirhq/weir/storage"
)

// flightResult is how a flight ended, as metrics name it.
type result string

const (
	stored    result = "stored"
	unstored  result = "unstored"  // the store did not take it
	corrupt   result = "corrupt"   // the bytes did not match the digest
	failed    result = "failed"    // no upstream delivered it
	abandoned result = "abandoned" // nobody wanted it any more
)

func results() []result {
	return []result{stored, unstored, corrupt, failed, abandoned}
}

// result says how the flight ended. Its goroutine calls it last, and before it
// ends the flight's context.
func (f *Download) result() result {
	var store storeError
	switch {
	case f.stored:
		return stored
	case f.err == nil, errors.As(f.err, &store):
		return unstored
	case errors.Is(f.err, storage.ErrCorrupt):
		return corrupt
	case f.ctx.Err() != nil:
		return abandoned
	default:
		return failed
	}
}
