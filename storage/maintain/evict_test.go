package maintain_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/storage/storagetest"
)

// newAged returns a store with blobs of ten bytes each, last used as many
// hours ago as their place in the result says, plus one.
func newAged(t *testing.T, n int) (*disk.Store, []digest.Digest) {
	t.Helper()
	s, root := newDisk(t)
	var digests []digest.Digest
	for i := range n {
		dgst := storagetest.Commit(t, s, s.Spools(), []byte("content  "+string(rune('a'+i))))
		used := time.Now().Add(-time.Duration(i+1) * time.Hour)
		must(t, os.Chtimes(filepath.Join(root, "blobs", "sha256", dgst.Encoded()[:2], dgst.Encoded()), used, used))
		digests = append(digests, dgst)
	}
	return s, digests
}

func TestEvict(t *testing.T) {
	for name, c := range map[string]struct {
		bytes  *int64
		unused *time.Duration
		left   int // the most recently used of six
	}{
		"no limit":                    {nil, nil, 6},
		"larger than all":             {new(int64(1000)), nil, 6},
		"exactly all":                 {new(int64(60)), nil, 6},
		"a byte less":                 {new(int64(59)), nil, 5},
		"half":                        {new(int64(30)), nil, 3},
		"nothing":                     {new(int64(0)), nil, 0},
		"used for long":               {nil, new(24 * time.Hour), 6},
		"unused for some hours":       {nil, new(150 * time.Minute), 2},
		"size is the tighter one":     {new(int64(10)), new(150 * time.Minute), 1},
		"duration is the tighter one": {new(int64(50)), new(150 * time.Minute), 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, digests := newAged(t, 6)
			want := maintain.EvictReport{
				Removed: maintain.Amount{Objects: int64(6 - c.left), Bytes: int64(60 - 10*c.left)},
				Left:    maintain.Amount{Objects: int64(c.left), Bytes: int64(10 * c.left)},
			}
			oldest := slices.Clone(digests[c.left:])
			slices.Reverse(oldest)
			for _, dry := range []bool{true, false} {
				var evicted []digest.Digest
				got, err := maintain.Evict(t.Context(), s, maintain.EvictOptions{
					MaxBytes: c.bytes, MaxUnused: c.unused, DryRun: dry,
					Evicted: func(entry storage.Entry) { evicted = append(evicted, entry.Digest) },
				})
				if got != want || err != nil {
					t.Errorf("dry run %v: Evict = %+v, %v, want %+v", dry, got, err, want)
				}
				if !slices.Equal(evicted, oldest) {
					t.Errorf("dry run %v: evicted %q, want %q", dry, evicted, oldest)
				}
				for i, dgst := range digests {
					_, err := s.Stat(t.Context(), dgst)
					if gone := errors.Is(err, storage.ErrNotExist); gone != (!dry && i >= c.left) {
						t.Errorf("dry run %v: content %d: %v", dry, i, err)
					}
				}
			}
		})
	}
}

// stubborn is a store that refuses to delete some blobs.
type stubborn struct {
	storage.Store
	errs map[digest.Digest]error
}

func (s stubborn) Delete(ctx context.Context, dgst digest.Digest) error {
	if err := s.errs[dgst]; err != nil {
		return err
	}
	return s.Store.Delete(ctx, dgst)
}

// Content that cannot be removed costs another blob its place, and content that another
// process has removed does not.
func TestEvictGoesOn(t *testing.T) {
	s, digests := newAged(t, 6)
	fault := errors.New("scripted")
	got, err := maintain.Evict(t.Context(), stubborn{s, map[digest.Digest]error{
		digests[5]: fault, digests[4]: storage.ErrNotExist,
	}}, maintain.EvictOptions{MaxBytes: new(int64(35))})
	want := maintain.EvictReport{Removed: maintain.Amount{Objects: 2, Bytes: 20}, Left: maintain.Amount{Objects: 3, Bytes: 30}}
	if got != want || !errors.Is(err, fault) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Evict = %+v, %v, want %+v and the fault", got, err, want)
	}
}

func TestEvictInterrupted(t *testing.T) {
	s, _ := newAged(t, 6)
	ctx, cancel := context.WithCancel(t.Context())
	got, err := maintain.Evict(ctx, s, maintain.EvictOptions{
		MaxBytes: new(int64(0)),
		Evicted:  func(storage.Entry) { cancel() },
	})
	if got.Removed.Objects != 1 || got.Left.Objects != 5 || !errors.Is(err, context.Canceled) {
		t.Errorf("Evict = %+v, %v, want one removed", got, err)
	}
	if got, err := maintain.Evict(ctx, s, maintain.EvictOptions{MaxBytes: new(int64(0))}); got != (maintain.EvictReport{}) || !errors.Is(err, context.Canceled) {
		t.Errorf("Evict = %+v, %v, want nothing done", got, err)
	}
}

// An owner with more than its cap loses its own least recently used content, before the limits of all
// content are looked at. Content that is kept counts in the cap.
func TestEvictToCaps(t *testing.T) {
	// By age, the newest first. Each blob has ten bytes.
	owners := []string{"a", "b", "a", "b", "a", ""}
	for name, c := range map[string]struct {
		caps  map[string]int64
		bytes *int64
		kept  []int
		gone  []int // in the order of the eviction
	}{
		"no cap":                   {map[string]int64{"a": 0, "b": 0}, nil, nil, nil},
		"a cap that fits":          {map[string]int64{"a": 30}, nil, nil, nil},
		"a byte less":              {map[string]int64{"a": 29}, nil, nil, []int{4}},
		"both":                     {map[string]int64{"a": 10, "b": 10}, nil, nil, []int{4, 3, 2}},
		"smaller than any content": {map[string]int64{"a": 1}, nil, nil, []int{4, 2, 0}},
		"a limit behind it":        {map[string]int64{"a": 10}, new(int64(30)), nil, []int{4, 2, 5}},
		"the caps are enough":      {map[string]int64{"a": 10}, new(int64(40)), nil, []int{4, 2}},
		"kept content":             {map[string]int64{"a": 10}, nil, []int{4}, []int{2, 0}},
		"kept content alone":       {map[string]int64{"a": 10}, nil, []int{4, 2}, nil},
	} {
		s, digests := newAged(t, len(owners))
		kept := make(map[digest.Digest]bool)
		for _, i := range c.kept {
			kept[digests[i]] = true
		}
		for _, dry := range []bool{true, false} {
			var gone []int
			report, err := maintain.Evict(t.Context(), s, maintain.EvictOptions{
				MaxBytes: c.bytes, Caps: c.caps, DryRun: dry,
				Owner:   func(dgst digest.Digest) string { return owners[slices.Index(digests, dgst)] },
				Keeps:   func(dgst digest.Digest) bool { return kept[dgst] },
				Evicted: func(entry storage.Entry) { gone = append(gone, slices.Index(digests, entry.Digest)) },
			})
			if err != nil || !slices.Equal(gone, c.gone) || report.Removed.Objects != int64(len(c.gone)) || report.Left.Objects != int64(len(owners)-len(c.gone)) {
				t.Errorf("%s, dry run %t: %v went, want %v; %+v %v", name, dry, gone, c.gone, report, err)
			}
		}
	}
}
