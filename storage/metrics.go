package storage

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of the downloads and of what is evicted. A nil *Metrics
// counts nothing.
type Metrics struct {
	flights, waiting, readers prometheus.Gauge
	flightsEnded              map[flightResult]prometheus.Counter
	flightDuration            prometheus.Histogram
	evictedBytes              map[reason]prometheus.Counter
	evictedAge                prometheus.Histogram
}

const day = 24 * 60 * 60 // seconds

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	flightsEnded := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_flights_ended_total",
		Help: "Downloads from upstreams that ended, by result: stored, unstored (the store did not take it), corrupt, failed (no upstream delivered it) or abandoned (nobody wanted it any more).",
	}, []string{"result"})
	evictedBytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_store_evicted_bytes_total",
		Help: "Bytes of content that were evicted, by the reason: size (max_size), free (min_free) or unused (max_unused).",
	}, []string{"reason"})
	m := &Metrics{
		flights: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flights", Help: "Downloads from upstreams that are running or paused.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flights_waiting", Help: "Downloads that wait for one of global.max_concurrent_fetches places.",
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flight_readers", Help: "Clients that are reading a content while it is being downloaded.",
		}),
		flightsEnded: make(map[flightResult]prometheus.Counter),
		flightDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weir_flight_duration_seconds",
			Help:    "How long downloads from upstreams took that were stored, with their waits and pauses.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}),
		evictedBytes: make(map[reason]prometheus.Counter),
		evictedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_store_evicted_age_seconds",
			Help: "How long evicted content had not been used.",
			Buckets: []float64{
				60, 600, 3600, 6 * 3600, day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day,
			},
		}),
	}
	// All are there from the start: rate() misses what a counter begins with.
	for _, result := range flightResults() {
		m.flightsEnded[result] = flightsEnded.WithLabelValues(string(result))
	}
	for _, why := range []reason{forSize, forFree, forUnused} {
		m.evictedBytes[why] = evictedBytes.WithLabelValues(string(why))
	}
	r.MustRegister(m.flights, m.waiting, m.readers, flightsEnded, m.flightDuration, evictedBytes, m.evictedAge)
	return m
}

func (m *Metrics) flightStarted() {
	if m != nil {
		m.flights.Inc()
	}
}

func (m *Metrics) flightWaits(more float64) {
	if m != nil {
		m.waiting.Add(more)
	}
}

func (m *Metrics) flightEnded(result flightResult, took time.Duration) {
	if m == nil {
		return
	}
	m.flights.Dec()
	m.flightsEnded[result].Inc()
	if result == flightStored {
		m.flightDuration.Observe(took.Seconds())
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
		m.evictedBytes[why].Add(float64(bytes))
		m.evictedAge.Observe(unused.Seconds())
	}
}
