package tokencache

import (
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// FuzzRecord reads any record of a client of Redis. Where there is
// a secret a record needs a seal, and a token always fits into a header line.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"token":"t","issued":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"token":"a\r\nb","expires":"2999-01-01T00:00:00Z","seal":"x"}`))
	open, sealed := NewRedis(nil, "p"), NewSealedRedis(nil, "p", "a secret")
	f.Fuzz(func(t *testing.T, stored []byte) {
		token, ok := open.parse("name", stored)
		if ok && (strings.ContainsAny(token.Value, " \r\n\x00\x7f") || len(token.Value) > MaxToken || token.Expires.After(time.Now().Add(maxLife))) {
			t.Errorf("%q is accepted: %d bytes until %v", stored, len(token.Value), token.Expires)
		}
		if _, ok := sealed.parse("name", stored); ok {
			t.Errorf("%q is accepted without a valid seal", stored)
		}
	})
}

// Distinct keys have distinct names in Redis.
func TestNamesOfKeysAreDistinct(t *testing.T) {
	fields := func(k *Key) []*string { return []*string{&k.Registry, &k.Realm, &k.Service, &k.Scope, &k.Account} }
	for first := range 4 {
		for second := first + 1; second < 5; second++ {
			testutil.Distinct(t, func(a, b string) (string, bool) {
				var k Key
				*fields(&k)[first], *fields(&k)[second] = a, b
				return (&Redis{prefix: "weir"}).name(k), true
			})
		}
	}
}
