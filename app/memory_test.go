package app

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// A small mirror keeps to a modest limit, and a large one always has room for garbage.
func TestGarbageLimit(t *testing.T) {
	for live, want := range map[uint64]int64{
		0: 160 << 20, 30 << 20: 160 << 20, 96 << 20: 160 << 20,
		97 << 20: 176 << 20, 200 << 20: 320 << 20, 1 << 30: 1552 << 20, 100 << 30: 150<<30 + 16<<20,
	} {
		got := garbageLimit(live)
		if got != want {
			t.Errorf("with %d MiB live the limit is %d MiB, want %d", live>>20, got>>20, want>>20)
		}
		if got < int64(live+live/2) {
			t.Errorf("with %d MiB live the limit of %d MiB leaves no room", live>>20, got>>20)
		}
	}
}

// The limit follows the live memory, and ends with the mirror.
func TestLimitGarbage(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { limitGarbage(ctx) })
	limitIs := func(what string, fits func(int64) bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for !fits(debug.SetMemoryLimit(-1)) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the limit is %d MiB", what, debug.SetMemoryLimit(-1)>>20)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	limitIs("at the start", func(limit int64) bool { return limit >= modestMemory && limit < 1<<40 })
	ballast := make([]byte, 256<<20)
	runtime.GC()
	limitIs("with 256 MiB live", func(limit int64) bool { return limit >= 384<<20 && limit < 1<<40 })
	runtime.KeepAlive(ballast)
	ballast = nil
	runtime.GC()
	limitIs("after that", func(limit int64) bool { return limit < 384<<20 })
	cancel()
	ended.Wait()
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		t.Errorf("in the end the limit is %d", limit)
	}
}
