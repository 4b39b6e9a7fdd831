package tokencache_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/tokencache"
)

// tokenCacheTotal gathers weir_token_cache_total by "layer result".
func tokenCacheTotal(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "weir_token_cache_total" {
			t.Errorf("unexpected metric %s", family.GetName())
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			total[labels["layer"]+" "+labels["result"]] = metric.GetCounter().GetValue()
		}
	}
	return total
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics := tokencache.WithMetrics(tokencache.NewMetrics(registry))
	shared, service := newFaultyStore(), &issuer{name: "service"}
	cache, other := newCache(t, shared, metrics), newCache(t, shared, metrics)

	token := mustToken(t, cache, "a", service)         // miss, miss
	mustToken(t, cache, "a", service)                  // hit
	mustToken(t, other, "a", service)                  // miss, hit
	cache.Invalidate(t.Context(), keyFor("a"), token)  // not a lookup
	shared.memory.Set(t.Context(), keyFor("a"), token) // comes back, but
	mustToken(t, cache, "a", service)                  // miss, miss
	shared.failWith(func(context.Context, operation) error { return errors.New("down") })
	mustToken(t, cache, "b", service) // miss, error
	mustToken(t, cache, "c", service) // miss, not asked

	want := map[string]float64{
		"memory hit": 1, "memory miss": 5,
		"redis hit": 1, "redis miss": 2, "redis error": 1,
	}
	if got := tokenCacheTotal(t, registry); !maps.Equal(got, want) {
		t.Errorf("weir_token_cache_total = %v, want %v", got, want)
	}
}

func TestMetricsCountFailedWrites(t *testing.T) {
	registry := prometheus.NewRegistry()
	shared, service := newFaultyStore(), &issuer{name: "service"}
	shared.failWith(func(_ context.Context, op operation) error {
		if op == get {
			return nil
		}
		return errors.New("down")
	})
	cache := newCache(t, shared, tokencache.WithMetrics(tokencache.NewMetrics(registry)), tokencache.WithSharedPause(0))
	token := mustToken(t, cache, "a", service)
	cache.Invalidate(t.Context(), keyFor("a"), token)
	if got := tokenCacheTotal(t, registry)["redis error"]; got != 2 {
		t.Errorf("%v errors, want 2", got)
	}
}
