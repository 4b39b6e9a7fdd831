package bounded_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/weirhq/weir/internal/bounded"
)

func length(key, value string) int { return len(key) + len(value) }

// The bytes are bounded whatever the sizes of the entries, and those used last stay.
func TestBytes(t *testing.T) {
	const entry = 1000 + bounded.Overhead
	l := bounded.NewLRU(100, 3*entry, length)
	add := func(key string, size int) { l.Add(key, strings.Repeat("x", size-len(key))) }
	has := func(label string, keys ...string) {
		t.Helper()
		kept := ""
		for _, key := range []string{"a", "b", "c", "d", "e"} {
			if _, ok := l.Peek(key); ok {
				kept += key
			}
		}
		if want := strings.Join(keys, ""); kept != want {
			t.Errorf("%s: %q are kept, want %q", label, kept, want)
		}
	}
	add("a", 1000)
	add("b", 1000)
	add("c", 1000)
	has("full", "a", "b", "c")
	l.Get("a")
	add("d", 1000)
	has("b was used least recently", "a", "c", "d")
	add("c", 900)
	has("a smaller value takes less", "a", "c", "d")
	add("e", 2300)
	has("a large one takes the place of two", "c", "e")
	add("e", 3*entry)
	has("one that is too large is not kept, and neither is its old value", "c")
	if !l.Remove("c") || l.Remove("c") {
		t.Error("Remove does not tell whether there was an entry")
	}
	for range 5 {
		add("a", 1000)
		add("b", 1000)
		add("c", 1000)
		has("nothing is counted twice", "a", "b", "c")
	}
}

// The number is bounded too, for entries that take next to nothing.
func TestNumber(t *testing.T) {
	c := bounded.New(2, 1<<20, length)
	var all sync.WaitGroup
	for _, key := range []string{"a", "b", "c", "d"} {
		all.Go(func() { c.Add(key, key) })
	}
	all.Wait()
	kept := 0
	for _, key := range []string{"a", "b", "c", "d"} {
		if value, ok := c.Get(key); ok && value == key && c.Remove(key) {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d entries are kept", kept)
	}
}
