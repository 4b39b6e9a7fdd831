package app

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// memoryShare is the part of the control group's memory that the Go runtime may use. The
	// rest is for memory that it does not count, such as the kernel's buffers of sockets.
	memoryShare = 0.9
	// modestMemory is the memory of a mirror of some hundred clients with the garbage that it
	// makes. The program itself, some 40 MiB, comes on top.
	modestMemory = 160 << 20
	// stackMemory is about the memory of a thousand connections in addition to the heap.
	stackMemory = 16 << 20
	// garbageStep is how far the limit moves at least: each change stops the process for some
	// microseconds.
	garbageStep = 16 << 20
	// garbageTick is how often the limit follows the live memory. A limit that is too low for
	// that long costs half of the processors at most.
	garbageTick = time.Second
)

// limitThreads lets at most that many threads run at once; 0 means no limit. More than there are
// processors, or than the control group may use, would only take turns.
func limitThreads(most int) {
	if most > 0 && most < runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(most)
	}
}

// limitMemory makes the garbage collector keep the memory of the process below the limit
// of its control group, at the expense of processor time. The kernel would end the
// process at that limit. A GOMEMLIMIT of the environment stays in force. Without any limit,
// it limits the garbage, until stop is called.
func limitMemory(logger *slog.Logger) (stop func()) {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare))
	switch {
	case err != nil:
		// There are systems without control groups, and most have no limit.
		logger.Debug("the memory limit of the control group is unknown. Set GOMEMLIMIT if there is one", "error", err)
	case limit == math.MaxInt64:
		logger.Debug("there is no memory limit")
	default:
		logger.Debug("the garbage collector keeps to a memory limit", "bytes", limit)
		return func() {}
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {} // off
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { limitGarbage(ctx) })
	return func() {
		cancel()
		ended.Wait()
	}
}

// limitGarbage keeps a limit for the garbage collector that follows the live memory. By
// itself, Go lets the garbage grow as large as that, so that untrusted clients that use much memory
// live for a moment would take twice as much of the machine.
func limitGarbage(ctx context.Context) {
	defer debug.SetMemoryLimit(math.MaxInt64)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(garbageTick)
	defer tick.Stop()
	for limit := int64(0); ; {
		metrics.Read(live)
		if next := garbageLimit(live[0].Value.Uint64()); next != limit {
			limit = next
			debug.SetMemoryLimit(limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// garbageLimit returns the limit for a live heap. A large mirror has room for half as much
// garbage. So the collector never works without pause, as it does at a limit below the live
// memory.
func garbageLimit(live uint64) int64 {
	needed := live + live/2 + stackMemory
	return int64(max(modestMemory, (needed+garbageStep-1)/garbageStep*garbageStep))
}
