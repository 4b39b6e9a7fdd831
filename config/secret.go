package config

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// redacted is printed in place of a secret.
const redacted = "[redacted]"

// Secret is a string that is not printed: not by package fmt with any verb, not as
// text or JSON, and not by log/slog. Only [Secret.Reveal] returns it. An empty
// secret is printed as empty.
//
// Package fmt does not call methods of unexported struct fields, so a Secret must
// be in an exported field.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format prints the placeholder for any verb.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = strconv.Quote(text)
	}
	io.WriteString(f, text) //nolint:errcheck // fmt.State cannot report it
}

// MarshalText returns the placeholder; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
