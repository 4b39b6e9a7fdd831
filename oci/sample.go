package oci

import (
	"context"
	"errors"
)

// ErrNoRange says that a registry sends no part of a blob by itself: it ignores Range, or
// it encodes the body.
var ErrNoRange = errors.New("the registry only sends whole blobs")

type sampleKey struct{}

// WithSample marks a call of [Registry.Blob] for a few bytes of a blob, which are not
// worth the transfer of all bytes before them. The call fails with ErrNoRange if the
// registry would send the whole blob.
func WithSample(ctx context.Context) context.Context {
	return context.WithValue(ctx, sampleKey{}, true)
}

// IsSample reports whether ctx is that of a call for a few bytes.
func IsSample(ctx context.Context) bool { return ctx.Value(sampleKey{}) != nil }
