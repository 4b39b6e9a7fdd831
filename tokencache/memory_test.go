package tokencache_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/tokencachetest"
)

func TestMemoryConformance(t *testing.T) {
	tokencachetest.Run(t, func(*testing.T) tokencache.Store { return tokencache.NewMemory(100) })
}

func TestMemoryIsBounded(t *testing.T) {
	for _, size := range []int{-1, 0, 1, 2} {
		memory := tokencache.NewMemory(size)
		for _, scope := range []string{"a", "b", "c"} {
			memory.Set(t.Context(), keyFor(scope), newToken(scope))
			// Use keeps a token: "a" outlives "b" where there is room for two.
			memory.Get(t.Context(), keyFor("a"))
		}
		var kept []string
		for _, scope := range []string{"a", "b", "c"} {
			if _, err := memory.Get(t.Context(), keyFor(scope)); err == nil {
				kept = append(kept, scope)
			}
		}
		if want := max(1, size); len(kept) != want || kept[len(kept)-1] != "c" || want == 2 && kept[0] != "a" {
			t.Errorf("size %d keeps %q", size, kept)
		}
	}
}

// The tokens and scopes that a service chooses are bounded in bytes, and one token of the
// usual size still has its place.
func TestMemoryIsBoundedInBytes(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	memory := tokencache.NewMemory(1 << 20)
	memory.Set(t.Context(), keyFor("first"), newToken("a"))
	for i := range 2000 {
		long := strings.Repeat(fmt.Sprint(i%10), tokencache.MaxToken-8)
		scope := fmt.Sprint("scope", i, strings.Repeat("x", 4<<10))
		memory.Set(t.Context(), keyFor(scope), newToken(long))
		memory.Get(t.Context(), keyFor("first"))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 24<<20 {
		t.Errorf("40 MB of tokens take %d MiB", grown>>20)
	}
	if _, err := memory.Get(t.Context(), keyFor("first")); err != nil {
		t.Errorf("a token in use: %v", err)
	}
}

func TestMemoryForgetsExpiredTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := tokencache.NewMemory(10)
		memory.Set(t.Context(), keyFor("a"), newToken("a"))
		time.Sleep(270*time.Second - 1)
		if _, err := memory.Get(t.Context(), keyFor("a")); err != nil {
			t.Errorf("before the early expiry: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := memory.Get(t.Context(), keyFor("a")); !errors.Is(err, tokencache.ErrNotFound) {
			t.Errorf("at the early expiry: %v, want ErrNotFound", err)
		}
	})
}
