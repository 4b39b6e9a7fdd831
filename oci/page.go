package oci

import (
	"net/url"
	"slices"
	"strconv"
)

// Page returns the page of a sorted list that the parameters n and last of a query
// select: up to n names after last, and all of them if n is missing
// (distribution-spec, "Listing Tags"). It reports whether there are more.
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
