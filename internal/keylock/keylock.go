// Package keylock is a mutex for each key, so that slow work on one key holds up
// no other key.
package keylock

import "sync"

// Map has a mutex for each key. A key that is not locked takes no memory. The
// zero value is ready to use.
type Map[K comparable] struct {
	mu   sync.Mutex
	held map[K]*entry
}

type entry struct {
	sync.Mutex
	users int // that hold the mutex or wait for it
}

// Lock locks a key and returns the function that unlocks it.
func (m *Map[K]) Lock(key K) (unlock func()) {
	m.mu.Lock()
	e := m.held[key]
	if e == nil {
		if m.held == nil {
			m.held = make(map[K]*entry)
		}
		e = new(entry)
		m.held[key] = e
	}
	e.users++ // before the wait, so that the holder leaves the entry in the map
	m.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(m.held, key)
		}
	}
}
