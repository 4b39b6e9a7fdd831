package tier

import "github.com/prometheus/client_golang/prometheus"

// result is how an attempt ended, as metrics name it.
type result string

const (
	uploaded result = "uploaded" // or it was there already
	repeated result = "repeated" // it failed, and is tried again
	givenUp  result = "given_up"
	dropped  result = "dropped" // too many wait
)

// Metrics counts the work in the background. A nil *Metrics counts nothing.
type Metrics struct {
	uploads *prometheus.CounterVec
	writes  *prometheus.CounterVec
	waiting prometheus.Gauge
}

// NewMetrics registers the metrics of the uploads.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		uploads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_tier_uploads_total",
			Help: "Attempts to upload content to the bucket, by result: uploaded, repeated (it failed and is tried again), given_up or dropped (too many are waiting). The last two are tried again after a few hours.",
		}, []string{"result"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_tier_record_writes_total",
			Help: "Attempts to write records to the bucket, by result, as for uploads.",
		}, []string{"result"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_tier_uploads_waiting",
			Help: "Objects that are not in the bucket yet and wait for their upload.",
		}),
	}
	for _, result := range []result{uploaded, repeated, givenUp, dropped} {
		m.uploads.WithLabelValues(string(result))
		m.writes.WithLabelValues(string(result))
	}
	r.MustRegister(m.uploads, m.writes, m.waiting)
	return m
}

func (m *Metrics) upload(how result) {
	if m != nil {
		m.uploads.WithLabelValues(string(how)).Inc()
	}
}

func (m *Metrics) write(how result) {
	if m != nil {
		m.writes.WithLabelValues(string(how)).Inc()
	}
}

func (m *Metrics) wait(contents int) {
	if m != nil {
		m.waiting.Set(float64(contents))
	}
}
