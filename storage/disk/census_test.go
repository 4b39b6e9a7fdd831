package disk

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// TestCensus takes each interleaving of a count with two changes of one file, and
// compares the sum of the steps with the file's size in the end.
func TestCensus(t *testing.T) {
	blob := digest.FromString("a blob")
	path := blob.Encoded()
	count := []string{"start", "list", "finish"}
	changes := []string{"begin", "apply", "end", "begin", "apply", "end"}
	for _, sizes := range [][3]int64{{absent, 5, 7}, {5, absent, 7}, {5, 7, absent}, {absent, 5, absent}, {5, absent, absent}} {
		for _, order := range interleavings(count, changes) {
			var s shard
			var before int64
			file, total, change := sizes[0], int64(0), 0
			add := func(size, sign int64) {
				if size != absent {
					total += sign * size
				}
			}
			var listed []storage.Entry
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
					bytes, _ := s.endCount(listed)
					total += bytes
				case "begin":
					s.begin(path)
					before = file
				case "apply":
					change++
					file = sizes[change]
				case "end":
					out, in := s.end(path, before, file)
					add(out, -1)
					add(in, 1)
				}
			}
			if want := max(0, file); total != want {
				t.Errorf("sizes %v, %v: counted %d, want %d", sizes, order, total, want)
			}
			if len(s.changing) > 0 || s.changed != nil {
				t.Errorf("%v: leaves %v, %v", order, s.changing, s.changed)
			}
		}
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
