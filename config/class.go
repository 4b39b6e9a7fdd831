package config

import (
	"fmt"
	"slices"
	"strings"
)

// Class is a class of upstream failures, by the name that serve_stale_on and fallback_on
// have for it.
type Class string

const (
	ClassUnavailable Class = "unavailable"
	ClassRateLimited Class = "rate_limited"
	ClassDenied      Class = "denied"
	ClassNotFound    Class = "not_found"
)

// MarshalText returns the name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c), nil }

// UnmarshalText reads a name. It returns an error for all but the four classes.
func (c *Class) UnmarshalText(text []byte) error {
	known := []string{string(ClassUnavailable), string(ClassRateLimited), string(ClassDenied), string(ClassNotFound)}
	if !slices.Contains(known, string(text)) {
		return errNotOneOf(string(text), known)
	}
	*c = Class(text)
	return nil
}

// errNotOneOf is the error for a value that is not among those allowed.
func errNotOneOf(value string, allowed []string) error {
	return fmt.Errorf("must be one of %s, not %q", strings.Join(allowed, ", "), value)
}
