package app

import (
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is the part of the control group's memory that the Go runtime may use. The
// rest is for memory that it does not count, such as the kernel's buffers of sockets.
const memoryShare = 0.9

// limitMemory makes the garbage collector keep the memory of the process below the limit
// of its control group, at the expense of processor time. The kernel would end the
// process at that limit. A GOMEMLIMIT of the environment stays in force.
func limitMemory(logger *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare))
	switch {
	case err != nil:
		// There are systems without control groups, and most have no limit.
		logger.Debug("the memory limit of the control group is unknown. Set GOMEMLIMIT if there is one", "error", err)
	case limit == math.MaxInt64:
		logger.Debug("memory has no limit")
	default:
		logger.Debug("memory has a limit for the garbage collector", "bytes", limit)
	}
}
