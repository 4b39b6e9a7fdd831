// Package tokencache keeps the bearer tokens that upstream registries issue, so
// that a warm pull costs no token request, on one instance or on many.
//
// A [Cache] asks three places in turn:
//
//   - [Memory], a bounded LRU, answers nearly every call;
//   - a shared [Store], if there is one, which is [Redis]: what one instance
//     acquired, the others use;
//   - the caller's acquire function, at most once at a time for each [Key].
//     That flight is detached from whoever started it: a caller who leaves
//     does not fail those who still wait.
//
// The shared store is a convenience and never a condition. All access to it
// goes through a guard, which bounds the time that one call may lose and, after
// a failure, leaves the store alone for a while. Until it is back, the cache
// lives on memory alone; tokens acquired meanwhile are shared when they are
// next used.
//
// A token that its registry refused is taken out with [Cache.Invalidate], which
// never removes a newer one. Memory remembers the refused token, because it may
// come back from a shared store that could not be told.
//
// No lock is held while a token is acquired or a store is asked. The package
// knows neither HTTP nor registries: both are in the caller's acquire function.
package tokencache

import (
	"context"
	"errors"
)

var (
	// ErrNotFound says that a store has no usable token for a key.
	ErrNotFound = errors.New("tokencache: no token")
	// ErrClosed says that the cache was closed and acquires no more tokens.
	ErrClosed = errors.New("tokencache: closed")
)

// Store holds tokens by key. All methods may be called concurrently, and return
// soon after their context is done. A store may forget a token at any time.
type Store interface {
	// Get returns a token that is still [Token.Usable], or ErrNotFound. Any
	// other error means that the store could not be asked.
	Get(ctx context.Context, key Key) (Token, error)
	// Set creates or replaces the token for a key. A token that is not usable
	// any more need not be kept.
	Set(ctx context.Context, key Key, token Token) error
	// Delete removes the token for a key, but only while it is the rejected
	// one: a newer token stays. To find nothing to remove is no error.
	Delete(ctx context.Context, key Key, rejected Token) error
}
