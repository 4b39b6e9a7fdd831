package disk

import (
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// TestCensus takes each interleaving of one and of two counts with changes of one file, and
// compares the sum of the steps with the file's size in the end.
func TestCensus(t *testing.T) {
	count := []string{"start", "list", "finish"}
	change := []string{"begin", "apply", "end"}
	for _, sizes := range [][3]int64{{absent, 5, 7}, {5, absent, 7}, {5, 7, absent}, {absent, 5, absent}, {5, absent, absent}} {
		for _, order := range interleavings(count, slices.Concat(change, change)) {
			takeCensus(t, sizes[:], order)
		}
		for _, order := range interleavings(slices.Concat(count, count), slices.Concat(change, change)) {
			takeCensus(t, sizes[:], order)
		}
	}
}

// A recount corrects the sum if another process has changed the file, which is never in the midst of a
// change of this one.
func TestCensusOfForeignChanges(t *testing.T) {
	count := []string{"start", "list", "finish"}
	change := []string{"begin", "apply", "end"}
	for _, sizes := range [][4]int64{{5, absent, 7, absent}, {absent, 5, absent, 7}, {5, 7, absent, 5}} {
		for _, order := range interleavings(count, change) {
			takeCensus(t, sizes[:], slices.Concat(count, []string{"foreign"}, order, change))
			takeCensus(t, sizes[:], slices.Concat(count, change, []string{"foreign"}, order))
		}
		// A recount that is abandoned leaves the sum as it was.
		takeCensus(t, sizes[:], slices.Concat(count, []string{"start", "begin", "apply", "give up", "end", "foreign"}, count, change))
	}
}

// takeCensus makes the steps of an order. The file has the next of its sizes after each change.
func takeCensus(t *testing.T, sizes []int64, order []string) {
	t.Helper()
	blob := digest.FromString("a blob")
	path := blob.Encoded()
	var s shard
	var total tally
	file, before, changes := sizes[0], int64(0), 0
	add := func(grown tally) {
		total.bytes += grown.bytes
		total.objects += grown.objects
	}
	var listed []storage.Entry
	firsts := 0
	for _, step := range order {
		switch step {
		case "start":
			s.startCount()
		case "list":
			listed = nil
			if file != absent {
				listed = append(listed, storage.Entry{Info: storage.Info{Digest: blob, Size: file}})
			}
		case "finish":
			grown, first := s.endCount(listed)
			add(grown)
			if first {
				firsts++
			}
		case "give up":
			s.giveUpCount()
		case "begin":
			s.begin(path)
			before = file
		case "apply", "foreign":
			changes++
			file = sizes[changes]
		case "end":
			add(s.end(path, before, file))
		}
	}
	var want tally
	want.add(file, 1)
	if total != want || s.sum != want {
		t.Errorf("sizes %v, %v: counted %+v in all and %+v in the shard, want %+v", sizes, order, total, s.sum, want)
	}
	if firsts != 1 {
		t.Errorf("%v: %d counts were the first", order, firsts)
	}
	if len(s.changing) > 0 || s.changed != nil {
		t.Errorf("%v: leaves %v, %v", order, s.changing, s.changed)
	}
}

// interleavings returns all orders of both sequences together.
func interleavings(a, b []string) [][]string {
	if len(a) == 0 || len(b) == 0 {
		return [][]string{append(append([]string{}, a...), b...)}
	}
	var all [][]string
	for _, rest := range interleavings(a[1:], b) {
		all = append(all, append([]string{a[0]}, rest...))
	}
	for _, rest := range interleavings(a, b[1:]) {
		all = append(all, append([]string{b[0]}, rest...))
	}
	return all
}

func TestInterleavings(t *testing.T) {
	if got := fmt.Sprint(interleavings([]string{"a", "b"}, []string{"1"})); got != "[[a b 1] [a 1 b] [1 a b]]" {
		t.Error(got)
	}
}
