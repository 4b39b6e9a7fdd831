package tokencache

import (
	"context"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/bounded"
)

// maxBytes bounds the memory for tokens, which token services choose. It is room for
// 8192 tokens of 2 KiB, as those of Docker Hub, and their keys.
const maxBytes = 20 << 20

// Memory is a [Store] in this process: the most recently used tokens, up to a
// number and a sum of bytes.
type Memory struct {
	mu     sync.Mutex
	tokens *bounded.LRU[Key, remembered]
}

// remembered is the entry of a key.
type remembered struct {
	token    Token
	shared   bool // the shared store has the token, or a write of it is under way
	rejected bool // a registry refused it: kept to recognise it if it comes back
}

// NewMemory returns an empty store that holds at most size tokens, and at least
// one, in at most 20 MiB.
func NewMemory(size int) *Memory {
	return &Memory{tokens: bounded.NewLRU(max(1, size), maxBytes, func(k Key, r remembered) int {
		return len(k.Registry) + len(k.Realm) + len(k.Service) + len(k.Scope) + len(k.Account) + len(r.token.Value)
	})}
}

// Get returns a usable token, or ErrNotFound.
func (m *Memory) Get(_ context.Context, key Key) (Token, error) {
	if entry, ok := m.lookup(key); ok {
		return entry.token, nil
	}
	return Token{}, ErrNotFound
}

// Set creates or replaces the token for a key, rejected before or not.
func (m *Memory) Set(_ context.Context, key Key, token Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens.Add(key, remembered{token: token})
	return nil
}

// Delete removes the token for a key while it is the rejected one.
func (m *Memory) Delete(_ context.Context, key Key, rejected Token) error {
	m.reject(key, rejected)
	return nil
}

// lookup returns the entry of a key, and false if the token is not usable. It
// removes an entry whose token has expired.
func (m *Memory) lookup(key Key) (remembered, bool) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.tokens.Get(key)
	if !ok {
		return remembered{}, false
	}
	if !entry.token.Usable(now) {
		m.tokens.Remove(key) // a rejected token too: the shared store drops it by now
		return remembered{}, false
	}
	return entry, !entry.rejected
}

// adopt remembers a token that came from the shared store. It refuses, and
// returns false, if the token is known to be rejected.
func (m *Memory) adopt(key Key, token Token) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.tokens.Peek(key)
	if ok && entry.rejected && entry.token.Value == token.Value {
		return false
	}
	m.tokens.Add(key, remembered{token: token, shared: true})
	return true
}

// reject forgets a token unless a newer one has taken its place, and remembers
// that it was rejected. It returns false if it changed nothing.
func (m *Memory) reject(key Key, rejected Token) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if entry, ok := m.tokens.Peek(key); ok {
		same := entry.token.Value == rejected.Value
		if same == entry.rejected {
			return false // a newer token, or this one is known to be rejected
		}
	}
	m.tokens.Add(key, remembered{token: rejected, rejected: true})
	return true
}

// setShared notes whether the shared store has a token, while that token is
// still the remembered one. It returns false if that changed nothing, so that
// of several callers one learns that the work is its own.
func (m *Memory) setShared(key Key, token Token, shared bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.tokens.Peek(key)
	if !ok || entry.rejected || entry.token.Value != token.Value || entry.shared == shared {
		return false
	}
	entry.shared = shared
	m.tokens.Add(key, entry)
	return true
}
