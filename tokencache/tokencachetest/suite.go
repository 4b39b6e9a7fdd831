// Package tokencachetest is the conformance suite of [tokencache.Store], which
// runs on each implementation.
package tokencachetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/tokencache"
)

// Run tests the stores that open returns: each call must return an empty one.
func Run(t *testing.T, open func(t *testing.T) tokencache.Store) {
	t.Run("absent", func(t *testing.T) { testAbsent(t, open(t)) })
	t.Run("set and get", func(t *testing.T) { testSetGet(t, open(t)) })
	t.Run("keys are distinct", func(t *testing.T) { testKeys(t, open(t)) })
	t.Run("early expiry", func(t *testing.T) { testExpiry(t, open(t)) })
	t.Run("delete", func(t *testing.T) { testDelete(t, open(t)) })
	t.Run("set after delete", func(t *testing.T) { testSetAfterDelete(t, open(t)) })
	t.Run("concurrent use", func(t *testing.T) { testConcurrent(t, open(t)) })
}

func key(scope string) tokencache.Key {
	return tokencache.Key{
		Registry: "https://registry.example",
		Realm:    "https://auth.example/token",
		Service:  "registry.example",
		Scope:    scope,
		Account:  tokencache.Fingerprint("reader", "password"),
	}
}

func token(value string) tokencache.Token {
	now := time.Now()
	return tokencache.Token{Value: value, Issued: now, Expires: now.Add(5 * time.Minute)}
}

func set(t *testing.T, store tokencache.Store, key tokencache.Key, token tokencache.Token) {
	t.Helper()
	if err := store.Set(t.Context(), key, token); err != nil {
		t.Fatalf("Set: %v", err)
	}
}

func wantToken(t *testing.T, store tokencache.Store, key tokencache.Key, want tokencache.Token) {
	t.Helper()
	got, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if got.Value != want.Value || !got.Issued.Equal(want.Issued) || !got.Expires.Equal(want.Expires) {
		t.Errorf("Get = %q, issued %v, expires %v; want %q, %v, %v",
			got.Value, got.Issued, got.Expires, want.Value, want.Issued, want.Expires)
	}
}

func wantNotFound(t *testing.T, store tokencache.Store, key tokencache.Key) {
	t.Helper()
	if got, err := store.Get(t.Context(), key); !errors.Is(err, tokencache.ErrNotFound) {
		t.Errorf("Get = %q, %v; want ErrNotFound", got.Value, err)
	}
}

func testAbsent(t *testing.T, store tokencache.Store) {
	wantNotFound(t, store, key("a"))
	if err := store.Delete(t.Context(), key("a"), token("one")); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func testSetGet(t *testing.T, store tokencache.Store) {
	// The characters that JSON, Lua or a URL might want to escape.
	first, second := token(`eyJ.a-b_c~+/=="<>&\%`), token("two")
	set(t, store, key("a"), first)
	wantToken(t, store, key("a"), first)
	set(t, store, key("a"), second)
	wantToken(t, store, key("a"), second)
}

func testKeys(t *testing.T, store tokencache.Store) {
	keys := []tokencache.Key{
		{},
		{Registry: "a"}, {Realm: "a"}, {Service: "a"}, {Scope: "a"}, {Account: "a"},
		{Registry: "ab", Realm: "c"}, {Registry: "a", Realm: "bc"},
		{Scope: "a\x00b"}, {Scope: "a", Account: "\x00b"},
	}
	tokens := make([]tokencache.Token, len(keys))
	for i, key := range keys {
		tokens[i] = token(fmt.Sprint("token-", i))
		set(t, store, key, tokens[i])
	}
	for i, key := range keys {
		wantToken(t, store, key, tokens[i])
	}
}

func testExpiry(t *testing.T, store tokencache.Store) {
	now := time.Now()
	for _, test := range []struct {
		name        string
		life, spent time.Duration
		usable      bool
	}{
		{"half a short life", time.Minute, 30 * time.Second, true},
		{"in the last tenth", time.Minute, 57 * time.Second, false},
		{"half an hour's life", time.Hour, 30 * time.Minute, true},
		{"in the last 30 s", time.Hour, time.Hour - 20*time.Second, false},
		{"over", time.Minute, 2 * time.Minute, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			issued := now.Add(-test.spent)
			stored := tokencache.Token{Value: "value", Issued: issued, Expires: issued.Add(test.life)}
			set(t, store, key(test.name), stored)
			if test.usable {
				wantToken(t, store, key(test.name), stored)
			} else {
				wantNotFound(t, store, key(test.name))
			}
		})
	}
}

func testDelete(t *testing.T, store tokencache.Store) {
	old, newer := token(`old"<>&\`), token("newer")
	set(t, store, key("a"), newer)
	set(t, store, key("b"), old)
	if err := store.Delete(t.Context(), key("a"), old); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantToken(t, store, key("a"), newer)

	if err := store.Delete(t.Context(), key("b"), old); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantNotFound(t, store, key("b"))
	wantToken(t, store, key("a"), newer)
}

func testSetAfterDelete(t *testing.T, store tokencache.Store) {
	// A token service may issue the same token again.
	again := token("again")
	set(t, store, key("a"), again)
	if err := store.Delete(t.Context(), key("a"), again); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	set(t, store, key("a"), again)
	wantToken(t, store, key("a"), again)
}

func testConcurrent(t *testing.T, store tokencache.Store) {
	one, two := token("one"), token("two")
	var group sync.WaitGroup
	for i := range 8 {
		key := key(fmt.Sprint(i % 2))
		group.Go(func() {
			for range 20 {
				if err := store.Set(t.Context(), key, one); err != nil {
					t.Errorf("Set: %v", err)
				}
				got, err := store.Get(t.Context(), key)
				if err == nil && got.Value != one.Value && got.Value != two.Value {
					t.Errorf("Get = %q, which nobody stored", got.Value)
				}
				if err != nil && !errors.Is(err, tokencache.ErrNotFound) {
					t.Errorf("Get: %v", err)
				}
				if err := store.Delete(t.Context(), key, one); err != nil {
					t.Errorf("Delete: %v", err)
				}
				if err := store.Set(t.Context(), key, two); err != nil {
					t.Errorf("Set: %v", err)
				}
			}
		})
	}
	group.Wait()
	// Whatever the order, the last call of all for a key is a Set of two.
	wantToken(t, store, key("0"), two)
	wantToken(t, store, key("1"), two)
}
