package evict_test

import (
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/storagetest"
)

// BenchmarkMillion measures an index of a million entries: the time to load it,
// its memory per entry, the time of one garbage collection, and a use.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	quota := evict.NewQuota(2 * n)
	c := &crowd{Memory: storagetest.NewMemoryWithin(b, quota), n: n}
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	load := b.Elapsed()
	l := evict.New(c, quota, evict.Options{})
	<-l.Loaded()
	b.Cleanup(func() { must(b, l.Close()) })
	load = b.Elapsed() - load
	perEntry := float64(heap()-before) / n
	all := make([]digest.Digest, 1000)
	for i := range all {
		all[i] = c.digest(i * 997)
	}
	b.Run("Stat", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := l.Stat(b.Context(), all[i%len(all)]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(perEntry, "B/entry")
		b.ReportMetric(load.Seconds(), "s/load")
	})
	b.Run("GC", func(b *testing.B) {
		for b.Loop() {
			runtime.GC()
		}
	})
}
