package namespace

import (
	"net/url"
	"slices"
	"strconv"
)

// Page cuts a sorted list as the parameters n and last of a query ask for
// (distribution-spec, "Listing Tags"): up to n names that come after last. It
// reports whether there are more.
func Page(sorted []string, query url.Values) (page []string, more bool) {
	if last := query.Get("last"); last != "" {
		at, found := slices.BinarySearch(sorted, last)
		if found {
			at++
		}
		sorted = sorted[at:]
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 || n >= len(sorted) {
		return sorted, false
	}
	return sorted[:n], n > 0
}
