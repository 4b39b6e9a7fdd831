package keepwarm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/warm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a namespace whose images are empty manifests.
type fake struct {
	key    string
	images []keepwarm.Image
	take   time.Duration // of a warming

	mu      sync.Mutex
	fail    error
	begun   []time.Duration // since start
	running int
	most    int // running at once
	start   time.Time
}

func (f *fake) Key() string              { return f.key }
func (f *fake) Images() []keepwarm.Image { return f.images }
func (f *fake) MaxManifest() int64       { return 1 << 20 }
func (f *fake) Warm(name string) (storage.RepoID, warm.Source) {
	return storage.RepoID{Namespace: f.key, Name: name}, f
}

func (f *fake) Manifest(ctx context.Context, _ oci.Reference) (warm.Manifest, error) {
	f.mu.Lock()
	f.begun = append(f.begun, time.Since(f.start))
	f.running++
	f.most = max(f.most, f.running)
	fail := f.fail
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	}()
	select {
	case <-time.After(f.take):
	case <-ctx.Done():
		return warm.Manifest{}, ctx.Err()
	}
	return warm.Manifest{Body: []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)}, fail
}

func (f *fake) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

func (f *fake) Blob(context.Context, ocispec.Descriptor, bool, func(int64)) (bool, error) {
	return true, nil
}

// times returns how often a warming began, and forgets it.
func (f *fake) times() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	begun := f.begun
	f.begun = nil
	return begun
}

// runs returns how many warmings run now.
func (f *fake) runs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

func (f *fake) setFailure(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// bubble runs a test of a Warmer over a pool in fake time.
func bubble(t *testing.T, size int, test func(t *testing.T, w *keepwarm.Warmer)) {
	synctest.Test(t, func(t *testing.T) {
		logger := slog.New(slog.DiscardHandler)
		pool := jobs.NewPool(size, nil, logger)
		defer pool.Close()
		w := keepwarm.New(pool, nil, logger)
		defer w.Close()
		test(t, w)
	})
}

func every(d time.Duration, names ...string) (images []keepwarm.Image) {
	for _, name := range names {
		images = append(images, keepwarm.Image{Name: name, Reference: oci.ByTag("v1"), Every: d})
	}
	return images
}

func TestFailureIsTriedAgainWithGrowingPauses(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *keepwarm.Warmer) {
		f := &fake{key: "up.example", images: every(24*time.Hour, "app"), fail: errors.New("the upstream is away"), start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(time.Hour)
		begun := f.times()
		var pauses []time.Duration
		for i := range begun[1:] {
			pauses = append(pauses, (begun[i+1] - begun[i]).Round(time.Second))
		}
		want := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute}
		if !slices.Equal(pauses, want) {
			t.Errorf("tried again after %v, want %v", pauses, want)
		}
		// After a success the interval counts, and up to a twentieth less.
		f.setFailure(nil)
		time.Sleep(15 * time.Minute)
		if begun := f.times(); len(begun) != 1 {
			t.Errorf("%d warmings", len(begun))
		}
		time.Sleep(22 * time.Hour)
		if begun := f.times(); len(begun) != 0 {
			t.Errorf("warm images were warmed again: %v", begun)
		}
		time.Sleep(2 * time.Hour)
		if begun := f.times(); len(begun) != 1 {
			t.Errorf("%d warmings", len(begun))
		}
	})
}

// Images of blocks whose upstreams never end delay no image of another block for more than
// half an hour, however many there are.
func TestEndlessWarmingsLeaveOthers(t *testing.T) {
	for name, c := range map[string]struct {
		size, hostile int // of the pool, and blocks
		within        time.Duration
	}{
		"one block":            {4, 1, time.Minute},
		"one block, one place": {1, 1, time.Hour},
		"two blocks":           {4, 2, time.Minute},
		"three blocks":         {4, 3, time.Hour},
		"six blocks":           {4, 6, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, c.size, func(t *testing.T, w *keepwarm.Warmer) {
				var blocks []keepwarm.Namespace
				for i := range c.hostile {
					blocks = append(blocks, &fake{key: fmt.Sprint("hostile", i), images: every(time.Hour, "a", "b", "c", "d"), take: 1000 * time.Hour})
				}
				w.Apply(blocks)
				time.Sleep(10 * time.Second) // all that can are running
				honest := &fake{key: "up.example", images: every(24*time.Hour, "app"), take: time.Second, start: time.Now()}
				w.Apply(append(blocks, honest))
				time.Sleep(c.within)
				if begun := honest.times(); len(begun) == 0 {
					t.Errorf("it was not warmed within %s", c.within)
				}
			})
		})
	}
}

func TestHalfOfThePoolIsLeftToOthers(t *testing.T) {
	for size, want := range map[int]int{1: 1, 2: 1, 6: 3} {
		bubble(t, size, func(t *testing.T, w *keepwarm.Warmer) {
			f := &fake{key: "up.example", images: every(time.Hour, "a", "b", "c", "d", "e", "f", "g"), take: time.Minute, start: time.Now()}
			w.Apply([]keepwarm.Namespace{f})
			time.Sleep(30 * time.Minute)
			if begun := f.times(); f.most != want || len(begun) != 7 {
				t.Errorf("pool of %d: %d warmings, %d at once; want %d", size, len(begun), f.most, want)
			}
		})
	}
}

func TestApplyKeepsTheScheduleOfUnchangedImages(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *keepwarm.Warmer) {
		first := &fake{key: "up.example", images: every(time.Hour, "kept", "gone"), start: time.Now()}
		w.Apply([]keepwarm.Namespace{first})
		time.Sleep(10 * time.Second)
		if begun := first.times(); len(begun) != 2 {
			t.Fatalf("%d warmings", len(begun))
		}
		second := &fake{key: "up.example", images: every(time.Hour, "kept", "added"), start: time.Now()}
		w.Apply([]keepwarm.Namespace{second})
		time.Sleep(10 * time.Second)
		if begun := second.times(); len(begun) != 1 {
			t.Errorf("%d warmings, want that of the added image", len(begun))
		}
		time.Sleep(time.Hour)
		if begun := second.times(); len(begun) != 2 {
			t.Errorf("%d warmings within an hour", len(begun))
		}
		if begun := first.times(); len(begun) != 0 {
			t.Errorf("the replaced namespace was asked %d times", len(begun))
		}
	})
}

func TestCloseCancelsWarmings(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *keepwarm.Warmer) {
		f := &fake{key: "up.example", images: every(time.Hour, "app"), take: time.Hour, start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(10 * time.Second)
		begun := time.Now()
		w.Close()
		if f.running != 0 || time.Since(begun) > 0 {
			t.Errorf("%d warmings run on, closed after %s", f.running, time.Since(begun))
		}
		f.times()
		time.Sleep(3 * time.Hour)
		if begun := f.times(); len(begun) != 0 {
			t.Errorf("%d warmings after Close", len(begun))
		}
	})
}
