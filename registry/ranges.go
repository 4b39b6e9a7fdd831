package registry

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxRanges is the largest number of ranges in one answer. Lazy pullers, the only clients
// that ask for several, send about ten.
const maxRanges = 16

// rangeHint returns the start and the exclusive end of the one range that a request
// for a blob asks for; an end of -1 is that of the blob. A range whose condition does
// not hold counts as none (RFC 9110 section 13.1.5). It is a hint for the request to
// an upstream; http.ServeContent decides which bytes the client gets.
func rangeHint(header http.Header, dgst digest.Digest) (start, end int64) {
	if condition := header.Get("If-Range"); condition != "" && condition != etag(dgst) {
		return 0, -1
	}
	spec, ok := strings.CutPrefix(header.Get("Range"), "bytes=")
	if !ok || severalRanges(spec) {
		return 0, -1
	}
	first, last, _ := strings.Cut(spec, "-")
	start, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	if err != nil || start < 0 {
		return 0, -1
	}
	if end, err = strconv.ParseInt(strings.TrimSpace(last), 10, 64); err != nil || end < start {
		return start, -1
	}
	return start, end + 1
}

// keepBytes removes a Range whose unit is not known, which is to be ignored. Units are
// case-insensitive (RFC 9110, sections 14.1 and 14.2), to http.ServeContent they are not.
func keepBytes(header http.Header) {
	unit, ranges, ok := strings.Cut(header.Get("Range"), "=")
	switch {
	case !ok || unit == "bytes":
	case strings.EqualFold(unit, "bytes"):
		header.Set("Range", "bytes="+ranges)
	default:
		header.Del("Range")
	}
}

// unmet returns the status of an answer if a condition of a request rules the content with an
// entity tag out, and else 0 (RFC 9110, sections 13.1.1, 13.1.2 and 13.2.2).
func unmet(header http.Header, tag string) int {
	lists := func(name, weak string) bool {
		return slices.ContainsFunc(strings.Split(header.Get(name), ","), func(one string) bool {
			one = strings.TrimSpace(one)
			return one == "*" || strings.TrimPrefix(one, weak) == tag
		})
	}
	switch {
	case header.Get("If-Match") != "" && !lists("If-Match", ""):
		return http.StatusPreconditionFailed
	case header.Get("If-None-Match") != "" && lists("If-None-Match", "W/"):
		return http.StatusNotModified
	}
	return 0
}

// severalRanges reports whether a Range may ask for more than one range.
func severalRanges(header string) bool { return strings.Contains(header, ",") }

// worthServing reports whether the ranges of a blob of some size are served as
// ranges. Ranges that are many, overlap or go backwards are ignored, and the client gets
// the whole content (RFC 9110 section 14.2). A Range that is malformed is left to
// http.ServeContent, which refuses it.
func worthServing(header string, size int64) bool {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || !severalRanges(spec) {
		return true
	}
	// Empty elements count, since a header may have nothing else.
	if strings.Count(spec, ",") >= maxRanges {
		return false
	}
	before := int64(0) // the end of the range before
	for part := range strings.SplitSeq(spec, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		start, end, ok := parseRange(part, size)
		if !ok {
			return true
		}
		if start >= size { // not satisfiable, and left out of the answer
			continue
		}
		if start < before {
			return false
		}
		before = end
	}
	return true
}

// parseRange returns the start and the exclusive end of one range of a blob of some
// size (RFC 9110 section 14.1.1). It reports false for a malformed one.
func parseRange(spec string, size int64) (start, end int64, ok bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return 0, 0, false
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if first == "" { // the last bytes
		n, err := strconv.ParseInt(last, 10, 64)
		return max(0, size-n), size, err == nil && n >= 0
	}
	start, err := strconv.ParseInt(first, 10, 64)
	if err != nil || start < 0 {
		return 0, 0, false
	}
	if last == "" {
		return start, size, true
	}
	inclusive, err := strconv.ParseInt(last, 10, 64)
	if err != nil || inclusive < start {
		return 0, 0, false
	}
	return start, min(inclusive, size-1) + 1, true
}
