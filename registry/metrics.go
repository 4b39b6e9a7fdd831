package registry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the package's. A nil *Metrics counts nothing.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

// NewMetrics registers the package's metrics. Their labels are namespaces of
// the configuration and fixed words: never a name that a client sent.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_requests_total", Help: "Requests of clients, by what the cache had to do with the answer.",
		}, []string{"namespace", "operation", "status", "cache"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_request_duration_seconds", Help: "Time from a client's request to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"namespace", "operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_served_bytes_total", Help: "Bytes of bodies sent to clients.",
		}, []string{"namespace", "cache"}),
	}
	r.MustRegister(m.requests, m.duration, m.bytes)
	return m
}

func (m *Metrics) request(e *entry, status int, written int64, took time.Duration) {
	if m == nil {
		return
	}
	op, cache := e.op.Label(), e.outcome.Cache.Label()
	m.requests.WithLabelValues(e.namespace, op, strconv.Itoa(status), cache).Inc()
	m.duration.WithLabelValues(e.namespace, op).Observe(took.Seconds())
	m.bytes.WithLabelValues(e.namespace, cache).Add(float64(written))
}
