package registry

import (
	"strconv"

	"github.com/weirhq/weir/namespace"
)

// cacheStatus returns the value of the Cache-Status header (RFC 9211). It is empty
// for an answer that the cache has no part in.
func cacheStatus(o namespace.Outcome) string {
	switch o.Cache {
	case namespace.Hit:
		// RFC 9211 section 2.5: how long the answer is fresh, which is negative for a stale one.
		if o.Overdue > 0 {
			return "weir; hit; ttl=-" + strconv.Itoa(wholeSeconds(o.Overdue))
		}
		return "weir; hit"
	case namespace.Revalidated:
		return "weir; hit; detail=revalidated"
	case namespace.Stale:
		return "weir; hit; detail=stale"
	case namespace.Miss:
		return "weir; fwd=uri-miss; stored"
	case namespace.Moved:
		return "weir; fwd=stale"
	case namespace.Collapsed:
		if o.FromPeer {
			return "weir; fwd=uri-miss; collapsed; detail=peer"
		}
		return "weir; fwd=uri-miss; collapsed"
	case namespace.Passed:
		return "weir; fwd=uri-miss"
	default:
		return ""
	}
}

// cacheLabel returns the status as metrics and the access log name it.
func cacheLabel(s namespace.CacheStatus) string {
	switch s {
	case namespace.Hit:
		return "hit"
	case namespace.Revalidated:
		return "revalidated"
	case namespace.Stale:
		return "stale"
	case namespace.Miss, namespace.Moved, namespace.Passed:
		return "miss"
	case namespace.Collapsed:
		return "collapsed"
	default:
		return "none"
	}
}
