package upstream

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

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

// Pages of lists, places of limits and challenges are not those of names that are spelt alike.
func TestKeysAreDistinct(t *testing.T) {
	for name, key := range map[string]func(a, b string) string{
		"pages":         func(a, b string) string { p := pageOf(a, url.Values{"last": {b}}); return string(p[:]) },
		"cursors":       func(a, b string) string { p := pageOf("app", url.Values{a: {b + "."}}); return string(p[:]) },
		"shared limits": func(a, b string) string { return fmt.Sprintf("%q %s", a, place{host: b, operation: ofTokens}.shared()) },
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Distinct(t, func(a, b string) (string, bool) { return key(a, b), a != "n" })
		})
	}
}
