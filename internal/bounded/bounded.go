// Package bounded holds caches that are bounded in bytes and not only in number.
//
// A cache of strings that clients choose takes as much memory as they like if only the
// number of its entries is bounded. [LRU] asks for the size of each entry, and forgets
// those that were used least recently. [Cache] is an LRU for many goroutines.
package bounded

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Overhead is the memory of an entry besides its strings, in bytes: its place in the map
// and in the list, and a key and a value of a few words each.
const Overhead = 256

// LRU holds the entries that were used last. It is for one goroutine at a time.
type LRU[K comparable, V any] struct {
	entries *simplelru.LRU[K, V]
	size    func(K, V) int
	max     int // of bytes
	bytes   int
}

// NewLRU returns an empty LRU of at most number entries, which is positive, and at most
// max bytes. Size returns the memory of the strings of an entry, always the same for the
// same entry.
func NewLRU[K comparable, V any](number, max int, size func(key K, value V) int) *LRU[K, V] {
	l := &LRU[K, V]{size: size, max: max}
	entries, err := simplelru.NewLRU(number, func(key K, value V) { l.bytes -= l.cost(key, value) })
	if err != nil {
		panic(err) // the number is not positive: a mistake of the caller
	}
	l.entries = entries
	return l
}

func (l *LRU[K, V]) cost(key K, value V) int { return l.size(key, value) + Overhead }

// Add adds or replaces an entry, as the one that was used last. It forgets the key if the
// entry alone exceeds the bytes.
func (l *LRU[K, V]) Add(key K, value V) {
	cost := l.cost(key, value)
	// It replaces its value without a word, and keeps the old key.
	l.entries.Remove(key)
	if cost > l.max {
		return
	}
	l.bytes += cost
	l.entries.Add(key, value)
	for l.bytes > l.max {
		l.entries.RemoveOldest()
	}
}

// Get returns the value of a key, and notes the use of its entry.
func (l *LRU[K, V]) Get(key K) (V, bool) { return l.entries.Get(key) }

// Peek is Get that notes no use.
func (l *LRU[K, V]) Peek(key K) (V, bool) { return l.entries.Peek(key) }

// Remove forgets a key. It reports whether there was one.
func (l *LRU[K, V]) Remove(key K) bool { return l.entries.Remove(key) }

// Cache is an [LRU] for many goroutines.
type Cache[K comparable, V any] struct {
	mu  sync.Mutex
	lru *LRU[K, V]
}

// New returns an empty cache. Its arguments are those of [NewLRU].
func New[K comparable, V any](number, max int, size func(key K, value V) int) *Cache[K, V] {
	return &Cache[K, V]{lru: NewLRU(number, max, size)}
}

// Add adds or replaces an entry, see [LRU.Add].
func (c *Cache[K, V]) Add(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Add(key, value)
}

// Get returns the value of a key, and notes the use of its entry.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(key)
}

// Remove forgets a key. It reports whether there was one.
func (c *Cache[K, V]) Remove(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Remove(key)
}
