package upstream

import (
	"testing"
	"time"
)

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		body          string
		value         string
		issued, lives time.Duration // after now, and from then on
	}{
		"token":              {`{"token":"a","expires_in":300}`, "a", 0, 300 * time.Second},
		"access_token":       {`{"access_token":"b"}`, "b", 0, time.Minute},
		"both":               {`{"token":"a","access_token":"b"}`, "a", 0, time.Minute},
		"issued before":      {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:03:05Z"}`, "a", -time.Minute, 300 * time.Second},
		"issued in future":   {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:14:05Z"}`, "a", 0, 300 * time.Second},
		"born expired":       {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T02:04:05Z"}`, "a", 0, 300 * time.Second},
		"issued at nonsense": {`{"token":"a","issued_at":"yesterday"}`, "a", 0, time.Minute},
		"negative life":      {`{"token":"a","expires_in":-5}`, "a", 0, time.Minute},
		"endless life":       {`{"token":"a","expires_in":1e300}`, "a", 0, maxTokenLife},
	}
	for name, test := range tests {
		got, err := parseToken([]byte(test.body), now)
		if err != nil || got.Value != test.value || got.Issued.Sub(now) != test.issued || got.Expires.Sub(got.Issued) != test.lives {
			t.Errorf("%s: value %q, issued %v, expires %v, %v", name, got.Value, got.Issued, got.Expires, err)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	tests := []struct {
		value       string
		start, size int64
		ok          bool
	}{
		{"bytes 0-9/100", 0, 100, true},
		{"Bytes 10-99/100", 10, 100, true},
		{"bytes 10-19/*", 10, -1, true},
		{"bytes */100", 0, -1, false},
		{"bytes 10-100/100", 0, -1, false},
		{"bytes 10-9/100", 0, -1, false},
		{"bytes -5-9/100", 0, -1, false},
		{"bytes 0-9/-1", 0, -1, false},
		{"items 0-9/100", 0, -1, false},
		{"bytes 0-9", 0, -1, false},
		{"", 0, -1, false},
	}
	for _, test := range tests {
		start, size, err := parseContentRange(test.value)
		if start != test.start || size != test.size || (err == nil) != test.ok {
			t.Errorf("%q: %d of %d, %v", test.value, start, size, err)
		}
	}
}
