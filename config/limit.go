package config

import "errors"

// errNoLimit is the error for a limit that would leave nothing.
var errNoLimit = errors.New(`must be larger than 0; write "" for no limit`)

// SizeLimit is a [Size] that nothing may exceed, or 0 for no limit, which is
// written as "".
type SizeLimit Size

// String returns the form that [SizeLimit.UnmarshalText] reads.
func (l SizeLimit) String() string {
	if l == 0 {
		return ""
	}
	return Size(l).String()
}

// MarshalText returns what String returns.
func (l SizeLimit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a limit. A size of 0 is an error.
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

// DurationLimit is a [Duration] that nothing may exceed, or 0 for no limit,
// which is written as "".
type DurationLimit Duration

// String returns the form that [DurationLimit.UnmarshalText] reads.
func (l DurationLimit) String() string {
	if l == 0 {
		return ""
	}
	return Duration(l).String()
}

// MarshalText returns what String returns.
func (l DurationLimit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a limit. A duration of 0 is an error.
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
