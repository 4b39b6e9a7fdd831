package spool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestExtents(t *testing.T) {
	for _, tc := range []struct {
		name string
		add  []extent
		want extents
	}{
		{"nothing", nil, nil},
		{"an empty range", []extent{{5, 5}}, nil},
		{"apart", []extent{{8, 9}, {0, 2}, {4, 6}}, extents{{0, 2}, {4, 6}, {8, 9}}},
		{"touching", []extent{{0, 2}, {4, 6}, {2, 4}}, extents{{0, 6}}},
		{"twice the same", []extent{{4, 6}, {4, 6}}, extents{{4, 6}}},
		{"within another", []extent{{4, 9}, {5, 6}}, extents{{4, 9}}},
		{"around another", []extent{{5, 6}, {4, 9}}, extents{{4, 9}}},
		{"over the end", []extent{{4, 6}, {5, 8}}, extents{{4, 8}}},
		{"over the start", []extent{{4, 6}, {2, 5}}, extents{{2, 6}}},
		{"over several", []extent{{2, 3}, {5, 6}, {8, 9}, {20, 21}, {1, 10}}, extents{{1, 10}, {20, 21}}},
		{"over a gap's both sides", []extent{{2, 4}, {6, 8}, {3, 7}}, extents{{2, 8}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got extents
			for _, e := range tc.add {
				got.add(e)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

// TestExtentsAreASet compares random operations with a set of numbers.
func TestExtentsAreASet(t *testing.T) {
	const size = 24
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var got extents
		var model [size]bool
		var done string
		for range 30 {
			from := rng.Int64N(size)
			e := extent{from, from + rng.Int64N(size-from+1)}
			lacking, has := int64(0), false
			for i := e.from; i < e.to; i++ {
				has = has || model[i]
				if !model[i] {
					lacking++
				}
			}
			if n := extents(got.gaps(e)).total(); n != lacking {
				t.Fatalf("%s: gaps of %v in %v have %d bytes, want %d", done, e, got, n, lacking)
			}
			if got.overlap(e) != has {
				t.Fatalf("%s: overlap of %v with %v is %v", done, e, got, !has)
			}
			add := rng.IntN(3) > 0
			if add {
				got.add(e)
			} else {
				got.remove(e)
			}
			for i := e.from; i < e.to; i++ {
				model[i] = add
			}
			done += fmt.Sprintf(" %v%v", add, e)
			var want extents
			for i, there := range model {
				if there {
					want.add(extent{int64(i), int64(i) + 1})
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", done, got, want)
			}
		}
	}
}
