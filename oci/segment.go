package oci

import "context"

type segmentKey struct{}

// WithSegment marks a call of [Registry.Blob] for a segment: a part of a blob that is fetched in parallel to
// a stream of the same blob from a host, over a connection of its own. No other host is asked.
// The call fails with [ErrNoRange] whatever the reason, since the other stream may go on.
func WithSegment(ctx context.Context, host string) context.Context {
	return WithPart(context.WithValue(ctx, segmentKey{}, host))
}

// SegmentOf returns the host that a call for a segment asks, and whether ctx is that of such a
// call.
func SegmentOf(ctx context.Context) (host string, ok bool) {
	host, ok = ctx.Value(segmentKey{}).(string)
	return host, ok
}

// IsSegment reports whether ctx is that of a call for a segment.
func IsSegment(ctx context.Context) bool {
	_, ok := SegmentOf(ctx)
	return ok
}

// Segmenter decides for a registry how many streams may bring one blob at once. Its methods may
// be called concurrently.
type Segmenter interface {
	// Segments returns the number of streams; 1 is the usual stream alone.
	Segments() int
	// Single makes one stream the rule for a while, since the others are of no use. The reason
	// completes "a blob comes in one stream:".
	Single(reason string)
}

// version is the answer of a registry that a blob began with.
type version struct {
	host      string
	size      int64 // -1 if unknown
	etag      string
	segmenter Segmenter
}

// Began notes the answer for a blob, or for the rest of one: the host of its registry, the
// size of the whole, -1 if it is not known, and the entity tag, if there is one.
func (a *Assembly) Began(host string, size int64, etag string, segmenter Segmenter) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version = version{host, size, etag, segmenter}
}

// SameVersion reports whether an answer with a size and an entity tag may be one for the same
// bytes as that of Began.
func (a *Assembly) SameVersion(size int64, etag string) bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.version
	return (v.size < 0 || size < 0 || v.size == size) && (v.etag == "" || etag == "" || v.etag == etag)
}

// Segmenter returns the host of the registry that Began named last, and its Segmenter; nil if
// there is none.
func (a *Assembly) Segmenter() (host string, segmenter Segmenter) {
	if a == nil {
		return "", nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version.host, a.version.segmenter
}
