package oci

import "context"

type continuationKey struct{}

// WithContinuation marks a call of [Registry.Blob] that continues a body under way.
// A rate limit does not refuse such a call: part of the body is with a client already,
// which would lose it.
func WithContinuation(ctx context.Context) context.Context {
	return context.WithValue(ctx, continuationKey{}, true)
}

// IsContinuation reports whether ctx is that of a call that continues a body.
func IsContinuation(ctx context.Context) bool { return ctx.Value(continuationKey{}) != nil }
