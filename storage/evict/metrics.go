package evict

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts evictions. A nil *Metrics counts nothing.
type Metrics struct {
	evictedBytes map[reason]prometheus.Counter
	evictedAge   prometheus.Histogram
}

const day = 24 * 60 * 60 // seconds

// NewMetrics registers the metrics of evictions.
func NewMetrics(r prometheus.Registerer) *Metrics {
	evictedBytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_store_evicted_bytes_total",
		Help: "Bytes of content that were evicted, by the reason: size (the limit of the store), free (its filesystem ran short of space) or unused (not used for too long).",
	}, []string{"reason"})
	m := &Metrics{
		evictedBytes: make(map[reason]prometheus.Counter),
		evictedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_store_evicted_age_seconds",
			Help: "How long evicted content had not been used.",
			Buckets: []float64{
				60, 600, 3600, 6 * 3600, day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day,
			},
		}),
	}
	// All series exist from the start, because rate() misses the first value of
	// a counter that appears later.
	for _, why := range []reason{forSize, forFree, forUnused} {
		m.evictedBytes[why] = evictedBytes.WithLabelValues(string(why))
	}
	r.MustRegister(evictedBytes, m.evictedAge)
	return m
}

func (m *Metrics) evicted(why reason, bytes int64, unused time.Duration) {
	if m != nil {
		m.evictedBytes[why].Add(float64(bytes))
		m.evictedAge.Observe(unused.Seconds())
	}
}
