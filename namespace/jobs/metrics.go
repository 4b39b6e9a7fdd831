package jobs

import "github.com/prometheus/client_golang/prometheus"

// Metrics count the jobs of a pool. A nil *Metrics counts nothing.
type Metrics struct {
	state  *prometheus.GaugeVec
	result *prometheus.CounterVec
}

// NewMetrics registers the metrics of a pool.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_jobs", Help: "Background cache jobs by state: running or queued.",
		}, []string{"state"}),
		result: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_jobs_total", Help: "Background cache jobs that ended, by result: done, failed or dropped.",
		}, []string{"result"}),
	}
	r.MustRegister(m.state, m.result)
	m.set(0, 0)
	for _, result := range []string{"done", "failed", "dropped"} {
		m.result.WithLabelValues(result) // the series exists from the start
	}
	return m
}

func (m *Metrics) set(running, queued int) {
	if m == nil {
		return
	}
	m.state.WithLabelValues("running").Set(float64(running))
	m.state.WithLabelValues("queued").Set(float64(queued))
}

func (m *Metrics) ended(result string) {
	if m != nil {
		m.result.WithLabelValues(result).Inc()
	}
}
