package catalog_test

import (
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
			document := catalog.Document{Body: make([]byte, 117), Checked: checked} // 200 bytes as JSON
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

// A flood of one block's records leaves those of others, though they were touched earlier,
// until the block has no more than half of all.
func TestFloodOfRecordsLeavesOthers(t *testing.T) {
	for name, c := range map[string]struct {
		limit           int64
		honest, hostile int // records that are left, of 16 old ones and 64 new ones
	}{
		"within":               {limit: 80, honest: 16, hostile: 64},
		"the flood goes":       {limit: 40, honest: 16, hostile: 22},
		"both have half":       {limit: 33, honest: 15, hostile: 16},
		"less than others had": {limit: 24, honest: 7, hostile: 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := disk.Open(t.TempDir(), disk.Options{})
			must(t, err)
			defer store.Close()
			kept := catalog.New(store.Records(), catalog.Options{})
			now := time.Now()
			put := func(block string, n int, age time.Duration) {
				for i := range n {
					repo := storage.RepoID{Namespace: block, Name: "app"}
					must(t, kept.PutDocument(t.Context(), repo, "kind", fmt.Sprint(i), catalog.Document{Body: []byte("{}"), Checked: checked}))
				}
				for entry, err := range store.AllRecords(t.Context()) {
					must(t, err)
					if strings.HasPrefix(entry.Key, block+"/") {
						must(t, store.TouchRecord(t.Context(), entry.Key, now.Add(-age)))
					}
				}
			}
			put("docker.io", 12, 5*time.Hour)
			put("hostile.example", 64, time.Minute)
			put("quay.io", 4, 6*time.Hour)
			ctx, cancel := context.WithCancel(t.Context())
			counted := make(chan struct{}, 8)
			var running sync.WaitGroup
			running.Go(func() {
				kept.Keep(ctx, catalog.KeepOptions{
					Records: store, Limits: func() catalog.Limits { return catalog.Limits{Records: c.limit} }, Usage: new(catalog.Usage),
					Counted: func(int64) { counted <- struct{}{} }, Logger: slog.New(slog.DiscardHandler),
				})
			})
			<-counted
			cancel()
			running.Wait()
			honest, hostile := 0, 0
			for entry, err := range store.AllRecords(t.Context()) {
				must(t, err)
				if strings.HasPrefix(entry.Key, "hostile.example/") {
					hostile++
				} else {
					honest++
				}
			}
			if honest != c.honest || hostile != c.hostile {
				t.Errorf("%d and %d records are left, want %d and %d", honest, hostile, c.honest, c.hostile)
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
