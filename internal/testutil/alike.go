package testutil

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// Alike returns pairs of texts that run together: joined by some separator, changed in
// case, cut, cleaned as paths or decoded, two of them are the same.
func Alike() [][2]string {
	var pairs [][2]string
	for _, separator := range []string{"", "/", ":", "@", "?", "&", "=", "#", " ", "|", ",", ";", "_", "-", ".", "\n", "\x00", `"`, `"\n"`, "\\", "%", "%2F", "%2f", "%00", "\xff", "\ufffd", "/_tags/", "/../", "//"} {
		pairs = append(pairs, [2]string{"a" + separator + "b", "c"}, [2]string{"a", "b" + separator + "c"}, [2]string{"a" + separator, "b" + separator + "c"},
			[2]string{"a" + separator + "b" + separator + "c", ""}, [2]string{"", "a" + separator + "b" + separator + "c"})
	}
	long := strings.Repeat("x", 300)
	pairs = append(pairs,
		[2]string{"ghcr.io/acme", "app"}, [2]string{"ghcr.io", "acme/app"}, [2]string{"ghcr.io:443", "acme/app"}, [2]string{"ghcr.io.", "acme/app"},
		[2]string{"GHCR.io", "acme/app"}, [2]string{"ghcr.io", "Acme/app"}, [2]string{"ghcr.io", "acme//app"}, [2]string{"ghcr.io", "./acme/app"},
		[2]string{"ghcr.io", "acme/x/../app"}, [2]string{"ghcr.io", "acme%2Fapp"}, [2]string{"ghcr.io%2Facme", "app"}, [2]string{"ghcr.io%2facme", "app"},
		[2]string{"1 a", "b"}, [2]string{"1", "a 1 b"}, [2]string{"a", "1 b"}, [2]string{"A", "b"}, [2]string{"a", "B"}, [2]string{"é", "b"}, [2]string{"e\u0301", "b"},
		[2]string{long, "y"}, [2]string{long + "y", ""}, [2]string{long, "z"}, [2]string{long + "x", "y"}, [2]string{"y", long}, [2]string{"", ""})
	slices.SortFunc(pairs, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(pairs)
}

// Distinct fails the test if a key is that of two pairs of [Alike]. It leaves out pairs for
// which key reports false.
func Distinct(t testing.TB, key func(a, b string) (key string, ok bool)) {
	t.Helper()
	of := make(map[string][2]string)
	for _, pair := range Alike() {
		k, ok := key(pair[0], pair[1])
		if !ok {
			continue
		}
		if other, twice := of[k]; twice {
			t.Errorf("%.60q is the key of %.60q and of %.60q", k, pair, other)
		}
		of[k] = pair
	}
	if len(of) < 10 {
		t.Errorf("there are %d keys: %q", len(of), slices.Sorted(maps.Keys(of)))
	}
}
