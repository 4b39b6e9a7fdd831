package namespace

import (
	"time"

	"github.com/weirhq/weir/upstream"
)

// CacheStatus is the part that the cache had in an answer.
type CacheStatus int

const (
	// None is the status of answers in which the cache has no part.
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
	// Collapsed joined a lookup or a download of another request.
	Collapsed
	// Passed came from an upstream and is not stored.
	Passed
)

// Cached reports whether the content came from the store as a whole.
func (s CacheStatus) Cached() bool { return s == Hit || s == Revalidated || s == Stale }

// Outcome is how an answer came about.
type Outcome struct {
	Cache    CacheStatus
	Upstream string // host of the upstream that was asked; "" if none was
	// Of a cached answer that no upstream confirmed for this request: when one did so last;
	// zero if that is not known, or if the answer cannot change.
	Checked time.Time
	// Overdue is for how long the answer should have been checked again; 0: it is fresh, or
	// the upstream failed. The check runs behind the answer.
	Overdue time.Duration
	// FromPeer is set if the content comes from another replica.
	FromPeer bool
	// Of a stale answer: how the upstream failed, ClassOK if it was not asked because the
	// mirror was busy, and the warning for the client.
	Failure upstream.Class
	Warning string
}

func (o *Outcome) set(to Outcome) { *o = to }
