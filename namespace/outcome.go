package namespace

import "github.com/weirhq/weir/upstream"

// CacheStatus is what the cache had to do with an answer.
type CacheStatus int

const (
	// None is the status of answers that the cache has no part in.
	None CacheStatus = iota
	// Hit came from the cache without asking an upstream.
	Hit
	// Revalidated came from the cache after an upstream confirmed it.
	Revalidated
	// Stale came from the cache because the upstream failed.
	Stale
	// Miss came from an upstream and goes into the cache.
	Miss
	// Moved is a tag that was cached and now names other content.
	Moved
	// Collapsed joined what another request had begun.
	Collapsed
	// Passed came from an upstream and is not stored.
	Passed
)

// String returns the value of the Cache-Status header (RFC 9211), or "".
func (s CacheStatus) String() string {
	switch s {
	case Hit:
		return "weir; hit"
	case Revalidated:
		return "weir; hit; detail=revalidated"
	case Stale:
		return "weir; hit; detail=stale"
	case Miss:
		return "weir; fwd=uri-miss; stored"
	case Moved:
		return "weir; fwd=stale"
	case Collapsed:
		return "weir; fwd=uri-miss; collapsed"
	case Passed:
		return "weir; fwd=uri-miss"
	default:
		return ""
	}
}

// Cached reports whether the content came from the store as a whole.
func (s CacheStatus) Cached() bool { return s == Hit || s == Revalidated || s == Stale }

// Label returns the status as metrics and the access log name it.
func (s CacheStatus) Label() string {
	switch s {
	case Hit:
		return "hit"
	case Revalidated:
		return "revalidated"
	case Stale:
		return "stale"
	case Miss, Moved, Passed:
		return "miss"
	case Collapsed:
		return "collapsed"
	default:
		return "none"
	}
}

// Outcome is how an answer came about.
type Outcome struct {
	Cache    CacheStatus
	Upstream string // host of the upstream that was asked; "" when none was
	// Of a stale answer: how the upstream failed, and what the client is told.
	Failure upstream.Class
	Warning string
}

func (o *Outcome) set(to Outcome) { *o = to }
