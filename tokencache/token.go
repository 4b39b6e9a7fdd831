package tokencache

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// MaxToken bounds a token, in bytes. Longer ones do not fit into a header of most
// registries.
const MaxToken = 16 << 10

// maxEarliness bounds how long before its end a token counts as expired. It covers
// a slow request and clocks that differ.
const maxEarliness = 30 * time.Second

// Token is a bearer token. Printing, logging or marshalling a Token never shows its
// value: only code that names the Value field can read it.
type Token struct {
	Value   string
	Issued  time.Time
	Expires time.Time
}

// Usable reports whether the token may still be sent. It counts as expired early,
// by the smaller of 30 s and a tenth of its life, so that it does not expire on
// its way to the registry. A token without a value is never usable, and neither is
// one that was issued more than 30 s in the future: the clock of another instance runs
// ahead, and its token would count as valid long after its end.
func (t Token) Usable(now time.Time) bool {
	return t.Value != "" && t.Issued.Sub(now) <= maxEarliness && now.Before(t.earlyExpiry())
}

// earlyExpiry returns the time from which the token counts as expired.
func (t Token) earlyExpiry() time.Time {
	// A token that expires before its issue has no life to take a tenth of.
	life := max(0, t.Expires.Sub(t.Issued))
	return t.Expires.Add(-min(maxEarliness, life/10))
}

// String describes the token without its value.
func (t Token) String() string {
	return "token(redacted, expires " + t.Expires.UTC().Format(time.RFC3339) + ")"
}

// GoString is String, for %#v.
func (t Token) GoString() string { return t.String() }

// Format is String for every verb: some, such as %d, would otherwise print the
// fields.
func (t Token) Format(state fmt.State, _ rune) { io.WriteString(state, t.String()) }

// LogValue is String, for log/slog.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON is String, so that a structure that is logged or served as JSON
// does not reveal its tokens. [Redis] marshals a record instead.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }
