package spool

import (
	"slices"
	"sort"
)

// extent is a half-open range of bytes.
type extent struct{ from, to int64 }

// extents is a set of bytes: ranges that are sorted, not empty, and neither
// overlap nor touch.
//
//	[0 ........ 4096)      [8192 .. 12288)
//	            ^ start()                 ^ end()
type extents []extent

// start returns how many bytes the set has from offset 0 without a gap.
func (x extents) start() int64 {
	if len(x) == 0 || x[0].from > 0 {
		return 0
	}
	return x[0].to
}

// end returns the offset after the last byte.
func (x extents) end() int64 {
	if len(x) == 0 {
		return 0
	}
	return x[len(x)-1].to
}

// total returns how many bytes the set has.
func (x extents) total() (n int64) {
	for _, e := range x {
		n += e.to - e.from
	}
	return n
}

// count returns how many bytes of e the set has.
func (x extents) count(e extent) (n int64) {
	for _, have := range x {
		n += max(0, min(have.to, e.to)-max(have.from, e.from))
	}
	return n
}

// overlap reports whether the set has a byte of e.
func (x extents) overlap(e extent) bool {
	for _, have := range x {
		if max(have.from, e.from) < min(have.to, e.to) {
			return true
		}
	}
	return false
}

// gaps returns the parts of e that the set lacks, in order.
func (x extents) gaps(e extent) []extent {
	var gaps []extent
	for _, have := range x {
		if have.to <= e.from {
			continue
		}
		if have.from >= e.to { // all others are behind e too
			break
		}
		if have.from > e.from {
			gaps = append(gaps, extent{e.from, have.from})
		}
		e.from = have.to
	}
	if e.from < e.to {
		gaps = append(gaps, e)
	}
	return gaps
}

// next returns the end of the range that has off; off if none has.
func (x extents) next(off int64) int64 {
	for _, have := range x {
		if have.from <= off && off < have.to {
			return have.to
		}
	}
	return off
}

// add adds the bytes of e, and joins the ranges that it overlaps or touches.
func (x *extents) add(e extent) {
	if e.from >= e.to {
		return
	}
	set := *x
	// Those from first up to and without last overlap or touch e.
	first := sort.Search(len(set), func(i int) bool { return set[i].to >= e.from })
	last := first
	for last < len(set) && set[last].from <= e.to {
		e = extent{min(e.from, set[last].from), max(e.to, set[last].to)}
		last++
	}
	// Most writes extend one range, which costs no memory.
	*x = slices.Replace(set, first, last, e)
}

// remove removes the bytes of e.
func (x *extents) remove(e extent) {
	if e.from >= e.to {
		return
	}
	var left extents
	for _, have := range *x {
		if before := (extent{have.from, min(have.to, e.from)}); before.from < before.to {
			left = append(left, before)
		}
		if after := (extent{max(have.from, e.to), have.to}); after.from < after.to {
			left = append(left, after)
		}
	}
	*x = left
}
