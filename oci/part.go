package oci

import (
	"context"
	"sync"
)

type (
	partKey     struct{}
	assemblyKey struct{}
)

// WithPart marks a call of [Registry.Blob] for a part of a blob, of which other answers
// bring the rest. The call fails with [ErrNoRange] if the registry would send the whole
// blob, or refuses the part.
func WithPart(ctx context.Context) context.Context {
	return context.WithValue(ctx, partKey{}, true)
}

// IsPart reports whether ctx is that of a call for a part of a blob.
func IsPart(ctx context.Context) bool { return ctx.Value(partKey{}) != nil }

// Assembly is the knowledge about a blob that several calls of [Registry.Blob] bring
// together. Its methods may be called concurrently, and on a nil Assembly.
type Assembly struct {
	mu      sync.Mutex
	hosts   map[string]bool
	version version
}

// WithAssembly marks the calls of [Registry.Blob] that bring one blob together.
func WithAssembly(ctx context.Context, a *Assembly) context.Context {
	return context.WithValue(ctx, assemblyKey{}, a)
}

// AssemblyOf returns the Assembly of a call, or nil.
func AssemblyOf(ctx context.Context) *Assembly {
	a, _ := ctx.Value(assemblyKey{}).(*Assembly)
	return a
}

// Delivered notes that a host has sent bytes of the blob.
func (a *Assembly) Delivered(host string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hosts == nil {
		a.hosts = make(map[string]bool)
	}
	a.hosts[host] = true
}

// Mixed reports whether bytes of several hosts are in the blob: then none of them is known
// to have sent the wrong ones.
func (a *Assembly) Mixed() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.hosts) > 1
}
