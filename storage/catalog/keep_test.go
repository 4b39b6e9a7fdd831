package catalog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// Records beyond a limit go, those first that were not used for the longest time, from
// the memory too.
func TestKeep(t *testing.T) {
	for name, c := range map[string]struct {
		limits catalog.Limits
		left   int // of 64, the youngest
	}{
		"no limit": {catalog.Limits{}, 64},
		"within":   {catalog.Limits{Records: 64, Bytes: 1 << 20, Unused: 100 * time.Hour}, 64},
		"number":   {catalog.Limits{Records: 32}, 30},
		"bytes":    {catalog.Limits{Bytes: 200 * 32}, 30},
		"unused":   {catalog.Limits{Unused: 10*time.Hour + time.Minute}, 11},
		"both":     {catalog.Limits{Records: 32, Unused: 10*time.Hour + time.Minute}, 11},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var usage catalog.Usage
			var sum int64
			store, err := disk.Open(t.TempDir(), disk.Options{OnRecord: func(bytes, records int64) {
				usage.Add(bytes, records)
				sum += bytes
			}})
			must(t, err)
			defer store.Close()
			kept := catalog.New(store.Records(), catalog.Options{Touch: store.TouchRecord})
			document := catalog.Document{Body: make([]byte, 54), Checked: checked} // 200 bytes with its checksum
			for i := range 64 {
				must(t, kept.PutDocument(t.Context(), app, "kind", fmt.Sprint(i), document))
			}
			i, now := 0, time.Now()
			for entry, err := range store.AllRecords(t.Context()) {
				must(t, err)
				if entry.Size != 200 {
					t.Fatalf("%d bytes, which the limits do not expect", entry.Size)
				}
				must(t, store.TouchRecord(t.Context(), entry.Key, now.Add(-time.Duration(i)*time.Hour)))
				i++
			}
			ctx, cancel := context.WithCancel(t.Context())
			counted := make(chan int64, 8)
			var running sync.WaitGroup
			running.Go(func() {
				kept.Keep(ctx, catalog.KeepOptions{
					Records: store, Limits: func() catalog.Limits { return c.limits }, Usage: &usage, Logger: slog.New(slog.DiscardHandler),
					Counted: func(bytes int64) { counted <- bytes },
				})
			})
			if corrected := <-counted; corrected != 0 {
				t.Errorf("the driver counted wrong by %d bytes", corrected)
			}
			cancel()
			running.Wait()
			left := 0
			for entry, err := range store.AllRecords(t.Context()) {
				if must(t, err); now.Sub(entry.Used) > time.Duration(c.left)*time.Hour {
					t.Errorf("a record that was used %s ago is left", now.Sub(entry.Used))
				}
				left++
			}
			if left != c.left || sum != int64(left)*200 {
				t.Errorf("%d records and %d bytes are left, want %d", left, sum, c.left)
			}
		})
	}
}

// Limits that shrink, as those of a filesystem that fills up, take effect within seconds.
func TestKeepFollowsItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var usage catalog.Usage
		store, err := disk.Open(t.TempDir(), disk.Options{OnRecord: usage.Add})
		must(t, err)
		defer store.Close()
		kept := catalog.New(store.Records(), catalog.Options{})
		for i := range 64 {
			must(t, kept.PutDocument(t.Context(), app, "kind", fmt.Sprint(i), catalog.Document{Body: []byte("{}"), Checked: checked}))
		}
		var limit atomic.Int64
		limit.Store(100)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			kept.Keep(ctx, catalog.KeepOptions{
				Records: store, Limits: func() catalog.Limits { return catalog.Limits{Records: limit.Load()} }, Usage: &usage,
				Counted: func(int64) {}, Logger: slog.New(slog.DiscardHandler),
			})
		})
		for _, c := range []struct{ limit, left int64 }{{100, 64}, {64, 64}, {32, 30}, {100, 30}, {16, 15}} {
			limit.Store(c.limit)
			time.Sleep(6 * time.Second)
			synctest.Wait()
			var left int64
			for _, err := range store.AllRecords(t.Context()) {
				must(t, err)
				left++
			}
			if left != c.left {
				t.Errorf("limit %d: %d records are left, want %d", c.limit, left, c.left)
			}
		}
		cancel()
		running.Wait()
	})
}

// Floods of blocks' records leave those of others, though they were touched earlier, until
// the blocks that have most have equal parts: by their number, and by their bytes.
func TestFloodOfRecordsLeavesOthers(t *testing.T) {
	type block struct {
		name          string
		records, size int
		age           time.Duration
		least, most   int // records that are left
	}
	old := 5 * time.Hour
	for name, c := range map[string]struct {
		limits catalog.Limits
		blocks []block
	}{
		"within": {catalog.Limits{Records: 80}, []block{
			{"docker.io", 12, 2, old, 12, 12}, {"hostile.example", 64, 2, 0, 64, 64}, {"quay.io", 4, 2, old, 4, 4},
		}},
		"the flood goes": {catalog.Limits{Records: 40}, []block{
			{"docker.io", 12, 2, old, 12, 12}, {"hostile.example", 64, 2, 0, 22, 22}, {"quay.io", 4, 2, old, 4, 4},
		}},
		"both have half": {catalog.Limits{Records: 32}, []block{{"docker.io", 40, 2, old, 15, 15}, {"hostile.example", 64, 2, 0, 15, 15}}},
		"less than others had": {catalog.Limits{Records: 24}, []block{
			{"docker.io", 12, 2, old, 9, 10}, {"hostile.example", 64, 2, 0, 9, 10}, {"quay.io", 4, 2, old, 4, 4},
		}},
		"two floods": {catalog.Limits{Records: 48}, []block{
			{"docker.io", 14, 2, old, 14, 14}, {"hostile.example", 40, 2, 0, 15, 16}, {"other.example", 45, 2, time.Minute, 15, 16},
		}},
		"two floods, each as large as the others": {catalog.Limits{Records: 48}, []block{
			{"docker.io", 16, 2, old, 15, 16}, {"hostile.example", 16, 2, 0, 14, 15}, {"other.example", 17, 2, 0, 15, 15},
		}},
		"four floods": {catalog.Limits{Records: 48}, []block{
			{"a.example", 20, 2, 0, 10, 10}, {"b.example", 20, 2, 0, 10, 10}, {"docker.io", 5, 2, old, 5, 5},
			{"x.example", 20, 2, 0, 10, 10}, {"y.example", 20, 2, 0, 10, 10},
		}},
		// The block with most records has few bytes.
		"a flood of bytes": {catalog.Limits{Bytes: 64 << 10}, []block{
			{"docker.io", 60, 2, old, 60, 60}, {"hostile.example", 20, 6000, 0, 1, 7},
		}},
		"two floods of bytes": {catalog.Limits{Bytes: 64 << 10, Records: 1000}, []block{
			{"docker.io", 60, 2, old, 60, 60}, {"hostile.example", 10, 6000, 0, 1, 4}, {"other.example", 10, 6000, time.Minute, 1, 4},
		}},
		"of bytes, and of records": {catalog.Limits{Bytes: 64 << 10, Records: 90}, []block{
			{"docker.io", 20, 2, old, 20, 20}, {"hostile.example", 20, 6000, 0, 1, 7}, {"other.example", 100, 2, 0, 57, 64},
		}},
		// Its own records go, the oldest first.
		"one block": {catalog.Limits{Records: 32}, []block{{"hostile.example", 64, 2, 0, 30, 30}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := disk.Open(t.TempDir(), disk.Options{})
			must(t, err)
			defer store.Close()
			kept := catalog.New(store.Records(), catalog.Options{})
			now := time.Now()
			for _, b := range c.blocks {
				repo := storage.RepoID{Namespace: b.name, Name: "app"}
				for i := range b.records {
					body := append([]byte(`"`), bytes.Repeat([]byte("x"), b.size)...)
					must(t, kept.PutDocument(t.Context(), repo, "kind", fmt.Sprint(i), catalog.Document{Body: append(body, '"'), Checked: checked}))
				}
				for entry, err := range store.AllRecords(t.Context()) {
					must(t, err)
					if strings.HasPrefix(entry.Key, b.name+"/") {
						must(t, store.TouchRecord(t.Context(), entry.Key, now.Add(-b.age)))
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			counted := make(chan struct{}, 8)
			var running sync.WaitGroup
			running.Go(func() {
				kept.Keep(ctx, catalog.KeepOptions{
					Records: store, Limits: func() catalog.Limits { return c.limits }, Usage: new(catalog.Usage),
					Counted: func(int64) { counted <- struct{}{} }, Logger: slog.New(slog.DiscardHandler),
				})
			})
			<-counted
			cancel()
			running.Wait()
			left := make(map[string]int)
			for entry, err := range store.AllRecords(t.Context()) {
				must(t, err)
				block, _, _ := strings.Cut(entry.Key, "/")
				left[block]++
			}
			for _, b := range c.blocks {
				if n := left[b.name]; n < b.least || n > b.most {
					t.Errorf("%s: %d of %d records are left, want %d to %d", b.name, n, b.records, b.least, b.most)
				}
			}
		})
	}
}

// A link that is removed is not remembered.
func TestTrimForgets(t *testing.T) {
	store, err := disk.Open(t.TempDir(), disk.Options{})
	must(t, err)
	defer store.Close()
	c := catalog.New(store.Records(), catalog.Options{})
	must(t, c.PutLink(t.Context(), app, blob("old")))
	must(t, c.PutTag(t.Context(), app, "old", catalog.Tag{Descriptor: manifest("old"), Checked: checked}))
	for entry, err := range store.AllRecords(t.Context()) {
		must(t, err)
		must(t, store.TouchRecord(t.Context(), entry.Key, time.Now().Add(-time.Hour)))
	}
	must(t, c.PutLink(t.Context(), app, blob("new")))
	if report, err := c.Trim(t.Context(), store, time.Minute, true); report.Removed != 2 || err != nil {
		t.Errorf("dry run: %+v, %v", report, err)
	}
	if report, err := c.Trim(t.Context(), store, time.Minute, false); report.Removed != 2 || err != nil {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := c.Link(t.Context(), app, blob("old").Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("old link: %v", err)
	}
	if _, err := c.Tag(t.Context(), app, "old"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("old tag: %v", err)
	}
	if _, err := c.Link(t.Context(), app, blob("new").Digest); err != nil {
		t.Errorf("new link: %v", err)
	}
}

// A record in use is touched each six hours, and costs nothing between.
func TestTouches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		touched := 0
		c := catalog.New(storagetest.NewMemory(t).Records(), catalog.Options{Touch: func(context.Context, string, time.Time) error {
			touched++
			return nil
		}})
		must(t, c.PutTag(t.Context(), app, "v1", catalog.Tag{Descriptor: manifest("one"), Checked: time.Now()}))
		must(t, c.PutLink(t.Context(), app, manifest("one")))
		for hour := range 24 {
			for range 100 {
				if _, err := c.Tag(t.Context(), app, "v1"); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Link(t.Context(), app, manifest("one").Digest); err != nil {
					t.Fatal(err)
				}
			}
			if want := 2 * (hour / 7); touched != want {
				t.Fatalf("after %d hours: touched %d times, want %d", hour, touched, want)
			}
			time.Sleep(time.Hour)
		}
	})
}
