package tokencache_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/redistest"
)

const secret = "a secret of at least 32 characters"

// A client of Redis cannot plant a token where there is a secret, and
// nothing that takes much memory anywhere.
func TestPlantedTokens(t *testing.T) {
	client := redistest.Start(t).Client(t)
	sealed, open := tokencache.NewSealedRedis(client, "weir", secret), tokencache.NewRedis(client, "weir")
	ctx := t.Context()
	store := func(s *tokencache.Redis, scope string) (name, value string) {
		t.Helper()
		if err := client.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Set(ctx, keyFor(scope), newToken("good")); err != nil {
			t.Fatal(err)
		}
		name = storedNames(t, client)[0]
		return name, client.Get(ctx, name).Val()
	}
	name, good := store(sealed, "a")
	_, moved := store(sealed, "b")
	_, otherSecret := store(tokencache.NewSealedRedis(client, "weir", secret+"!"), "a")
	_, otherPrefix := store(tokencache.NewSealedRedis(client, "other", secret), "a")
	_, unsealed := store(open, "a")
	for _, tt := range []struct {
		name, value    string
		inOpen, inSeal bool // whether each of the two takes it
	}{
		{"sealed", good, true, true},
		{"not sealed", unsealed, true, false},
		{"moved from another key", moved, true, false},
		{"another secret", otherSecret, true, false},
		{"another prefix", otherPrefix, true, false},
		{"another token under a seal", strings.Replace(good, "good", "evil", 1), true, false},
		{"a later end under a seal", strings.Replace(good, `"expires":"2`, `"expires":"3`, 1), true, false},
		{"a cut seal", strings.Replace(good, `"seal":"`, `"seal":"x`, 1), true, false},
		{"a huge token", `{"token":"` + strings.Repeat("x", 17<<10) + `","expires":"2999-01-01T00:00:00Z"}`, false, false},
		{"a huge value", good + strings.Repeat(" ", 10<<20), false, false},
		{"many fields", "{" + strings.Repeat(`"a":{},`, 1<<20) + `"token":"x"}`, false, false},
	} {
		if err := client.Set(ctx, name, tt.value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		for store, want := range map[*tokencache.Redis]bool{open: tt.inOpen, sealed: tt.inSeal} {
			got, err := store.Get(ctx, keyFor("a"))
			if want != (err == nil) || err != nil && !errors.Is(err, tokencache.ErrNotFound) {
				t.Errorf("%s, sealed %v: %v", tt.name, store == sealed, err)
			}
			if got.Usable(time.Now().Add(24 * time.Hour)) {
				t.Errorf("%s: usable for more than a day", tt.name)
			}
		}
	}
}
