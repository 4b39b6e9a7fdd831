package ondemand

import "github.com/prometheus/client_golang/prometheus"

// Metrics count the jobs of a runner. A nil *Metrics counts nothing.
type Metrics struct {
	state  *prometheus.GaugeVec
	result *prometheus.CounterVec
}

// NewMetrics registers the metrics of a runner.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_warm_jobs", Help: "Jobs of operators that warm images, by state: waiting or running.",
		}, []string{"state"}),
		result: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_warm_jobs_total", Help: "Jobs of operators that warm images and have ended, by result: done, failed or cancelled.",
		}, []string{"result"}),
	}
	r.MustRegister(m.state, m.result)
	for _, state := range []State{Waiting, Running} {
		m.state.WithLabelValues(string(state)) // the series exists from the start
	}
	for _, state := range []State{Done, Failed, Cancelled} {
		m.result.WithLabelValues(string(state))
	}
	return m
}

// moved counts a job that has left a state for another one; "" before its first.
func (m *Metrics) moved(from, to State) {
	if m == nil {
		return
	}
	if from != "" {
		m.state.WithLabelValues(string(from)).Dec()
	}
	switch to {
	case Waiting, Running:
		m.state.WithLabelValues(string(to)).Inc()
	case Done, Failed, Cancelled:
		m.result.WithLabelValues(string(to)).Inc()
	}
}
