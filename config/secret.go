package config

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// redacted stands where a secret would.
const redacted = "[redacted]"

// Secret is a string that hides itself in every form of printing: package fmt
// with any verb, text, JSON and log/slog. Only [Secret.Reveal] gives it away.
// An empty secret shows that it is empty.
//
// Package fmt does not call methods of unexported struct fields, so a Secret
// belongs in an exported one.
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

// Format prints the placeholder, whatever the verb.
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
