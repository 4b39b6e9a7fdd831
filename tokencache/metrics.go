package tokencache

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts the answers of a cache's layers. A nil *Metrics counts nothing.
type Metrics struct {
	// One counter each, because finding a counter by its labels would cost as
	// much as finding the token.
	memoryHit, memoryMiss          prometheus.Counter
	redisHit, redisMiss, redisFail prometheus.Counter
}

// NewMetrics registers weir_token_cache_total{layer,result}. The registerer may
// be nil.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	total := promauto.With(registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "weir_token_cache_total",
		Help: "Lookups of upstream tokens by layer (memory, redis) and result (hit, miss, error). " +
			"A failed write to Redis is an error too; a Redis that cools down after an error is not contacted.",
	}, []string{"layer", "result"})
	return &Metrics{
		memoryHit:  total.WithLabelValues("memory", "hit"),
		memoryMiss: total.WithLabelValues("memory", "miss"),
		redisHit:   total.WithLabelValues("redis", "hit"),
		redisMiss:  total.WithLabelValues("redis", "miss"),
		redisFail:  total.WithLabelValues("redis", "error"),
	}
}

func (m *Metrics) memory(hit bool) {
	switch {
	case m == nil: // counts nothing
	case hit:
		m.memoryHit.Inc()
	default:
		m.memoryMiss.Inc()
	}
}

// sharedRead counts a read. It is a hit if the token can be used: memory refuses a
// rejected one.
func (m *Metrics) sharedRead(usable bool, err error) {
	switch {
	case m == nil, errors.Is(err, errCoolingDown):
	case usable:
		m.redisHit.Inc()
	case err == nil, errors.Is(err, ErrNotFound):
		m.redisMiss.Inc()
	default:
		m.redisFail.Inc()
	}
}

// sharedWrite counts a write or a delete that failed.
func (m *Metrics) sharedWrite(err error) {
	if m != nil && err != nil && !errors.Is(err, errCoolingDown) {
		m.redisFail.Inc()
	}
}
