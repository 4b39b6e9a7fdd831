package storage

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of the downloads and of what is evicted. A nil *Metrics
// counts nothing.
type Metrics struct {
	flights, readers prometheus.Gauge
	evictedBytes     *prometheus.CounterVec
	evictedAge       prometheus.Histogram
}

const day = 24 * 60 * 60 // seconds

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		flights: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flights", Help: "Downloads from upstreams that are running or paused.",
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flight_readers", Help: "Clients that are reading a content while it is being downloaded.",
		}),
		evictedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_store_evicted_bytes_total",
			Help: "Bytes of content that were evicted, by the reason: size (max_size), free (min_free) or unused (max_unused).",
		}, []string{"reason"}),
		evictedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_store_evicted_age_seconds",
			Help: "How long evicted content had not been used.",
			Buckets: []float64{
				60, 600, 3600, 6 * 3600, day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day,
			},
		}),
	}
	for _, why := range []reason{forSize, forFree, forUnused} {
		m.evictedBytes.WithLabelValues(string(why)) // so that it is there from the start
	}
	r.MustRegister(m.flights, m.readers, m.evictedBytes, m.evictedAge)
	return m
}

func (m *Metrics) flightStarted() {
	if m != nil {
		m.flights.Inc()
	}
}

func (m *Metrics) flightEnded() {
	if m != nil {
		m.flights.Dec()
	}
}

func (m *Metrics) readerOpened() {
	if m != nil {
		m.readers.Inc()
	}
}

func (m *Metrics) readerClosed() {
	if m != nil {
		m.readers.Dec()
	}
}

func (m *Metrics) evicted(why reason, bytes int64, unused time.Duration) {
	if m != nil {
		m.evictedBytes.WithLabelValues(string(why)).Add(float64(bytes))
		m.evictedAge.Observe(unused.Seconds())
	}
}
