package tokencache_test

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/tokencache"
)

// BenchmarkWarmToken measures the cost of a token for every pull.
func BenchmarkWarmToken(b *testing.B) {
	service, key := &issuer{name: "service"}, keyFor("repository:library/nginx:pull")
	cache := tokencache.New(tokencache.NewMemory(100), newFaultyStore(),
		tokencache.WithMetrics(tokencache.NewMetrics(prometheus.NewRegistry())))
	b.Cleanup(func() { cache.Close() })
	acquire := service.acquire
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cache.Token(b.Context(), key, acquire); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWarmTokenDoesNotAllocate keeps the benchmark's result, and that an outage
// of the shared store does not change it.
func TestWarmTokenDoesNotAllocate(t *testing.T) {
	well, away := newFaultyStore(), newFaultyStore()
	away.failWith(func(context.Context, operation) error { return errors.New("down") })
	for name, shared := range map[string]*faultyStore{"well": well, "away": away} {
		cache, service, key := newCache(t, shared, stubborn), &issuer{name: "service"}, keyFor("a")
		acquire := service.acquire
		if _, err := cache.Token(t.Context(), key, acquire); err != nil {
			t.Fatal(err)
		}
		allocations := testing.AllocsPerRun(100, func() { cache.Token(t.Context(), key, acquire) })
		if allocations != 0 {
			t.Errorf("shared store %s: %v allocations for a warm token, want none", name, allocations)
		}
	}
}
