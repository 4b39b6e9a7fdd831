package config

import (
	"errors"
	"math"
)

// errNoLimit is the error for a limit of 0, under which nothing could be stored.
var errNoLimit = errors.New(`must be larger than 0; write "" for no limit`)

// SizeLimit is an upper limit on a [Size]. No limit is 0, and is written as "".
type SizeLimit Size

// NothingKept is the limit of a local tier that keeps no blobs beyond their downloads. It is
// written as "0", and there is none without a bucket.
const NothingKept SizeLimit = math.MinInt64

// String returns the form that [SizeLimit.UnmarshalText] reads.
func (l SizeLimit) String() string {
	switch l {
	case 0:
		return ""
	case NothingKept:
		return "0"
	default:
		return Size(l).String()
	}
}

// MarshalText returns the form that UnmarshalText reads.
func (l SizeLimit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a limit. It returns an error for a size of 0.
func (l *SizeLimit) UnmarshalText(text []byte) error {
	var size Size
	if len(text) > 0 {
		if err := size.UnmarshalText(text); err != nil {
			return err
		}
		if size == 0 {
			return errNoLimit
		}
	}
	*l = SizeLimit(size)
	return nil
}

// DurationLimit is an upper limit on a [Duration]. No limit is 0, and is written
// as "".
type DurationLimit Duration

// String returns the form that [DurationLimit.UnmarshalText] reads.
func (l DurationLimit) String() string {
	if l == 0 {
		return ""
	}
	return Duration(l).String()
}

// MarshalText returns the form that UnmarshalText reads.
func (l DurationLimit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a limit. It returns an error for a duration of 0.
func (l *DurationLimit) UnmarshalText(text []byte) error {
	var d Duration
	if len(text) > 0 {
		if err := d.UnmarshalText(text); err != nil {
			return err
		}
		if d == 0 {
			return errNoLimit
		}
	}
	*l = DurationLimit(d)
	return nil
}
