// Package tokencache keeps the bearer tokens that upstream registries issue, so
// that a warm pull costs no token request, on one instance or on many.
//
// A [Cache] asks three places in turn:
//
//   - [Memory], a bounded LRU, answers nearly every call;
//   - a shared [Store], if there is one, which is [Redis]: all instances use a
//     token that one of them acquired;
//   - the caller's acquire function, at most once at a time for each [Key].
//     That flight is detached from the caller that started it: a caller that
//     leaves does not fail the others that wait.
//
// The cache works without the shared store. All calls to the store go through a
// guard, which bounds the time that one call may lose and backs off for 5 s after
// a failure. Until the store is back, the cache uses memory alone; tokens
// acquired meanwhile are shared at their next use.
//
// [Cache.Invalidate] removes a token that its registry refused, and never a newer
// one. Memory remembers the refused token, because it may come back from a shared
// store that failed to delete it.
//
// No lock is held during a call of acquire or of a store. The package knows
// neither HTTP nor registries: both are in the caller's acquire function.
package tokencache

import (
	"context"
	"errors"
)

var (
	// ErrNotFound says that a store has no usable token for a key.
	ErrNotFound = errors.New("tokencache: no token")
	// ErrClosed says that the cache was closed and acquires tokens no longer.
	ErrClosed = errors.New("tokencache: closed")
)

// Store holds tokens by key. All methods may be called concurrently, and return
// soon after their context is done. A store may forget a token at any time.
type Store interface {
	// Get returns a token that is still [Token.Usable], or ErrNotFound. Any
	// other error means that the store could not be asked.
	Get(ctx context.Context, key Key) (Token, error)
	// Set creates or replaces the token for a key. A token that is not usable
	// any more may be dropped.
	Set(ctx context.Context, key Key, token Token) error
	// Delete removes the token for a key, but only while it is the rejected
	// one: a newer token stays. It is not an error if there is none.
	Delete(ctx context.Context, key Key, rejected Token) error
}
