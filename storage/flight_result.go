package storage

import "errors"

// flightResult is how a flight ended, as metrics name it.
type flightResult string

const (
	flightStored    flightResult = "stored"
	flightUnstored  flightResult = "unstored"  // the store did not take it
	flightCorrupt   flightResult = "corrupt"   // the bytes did not match the digest
	flightFailed    flightResult = "failed"    // no upstream delivered it
	flightAbandoned flightResult = "abandoned" // nobody wanted it any more
)

func flightResults() []flightResult {
	return []flightResult{flightStored, flightUnstored, flightCorrupt, flightFailed, flightAbandoned}
}

// result says how the flight ended. Its goroutine calls it last, and before it
// ends the flight's context.
func (f *Flight) result() flightResult {
	var store storeError
	switch {
	case f.stored:
		return flightStored
	case f.err == nil, errors.As(f.err, &store):
		return flightUnstored
	case errors.Is(f.err, ErrCorrupt):
		return flightCorrupt
	case f.ctx.Err() != nil:
		return flightAbandoned
	default:
		return flightFailed
	}
}
