package upstream

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// recent remembers keys for a while: those that were added last, up to a number.
type recent[K comparable] struct {
	life  time.Duration
	mu    sync.Mutex
	until *simplelru.LRU[K, time.Time]
}

func newRecent[K comparable](size int, life time.Duration) *recent[K] {
	until, err := simplelru.NewLRU[K, time.Time](size, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &recent[K]{life: life, until: until}
}

func (r *recent[K]) add(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until.Add(key, time.Now().Add(r.life))
}

// count returns how many keys are remembered.
func (r *recent[K]) count() (n int) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, until := range r.until.Values() {
		if now.Before(until) {
			n++
		}
	}
	return n
}

func (r *recent[K]) has(key K) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until.Peek(key)
	return ok && time.Now().Before(until)
}
