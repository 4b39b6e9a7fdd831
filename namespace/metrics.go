package namespace

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the package's. A nil *Metrics counts nothing.
type Metrics struct {
	state  *prometheus.GaugeVec
	result *prometheus.CounterVec

	warmed  *prometheus.CounterVec
	failing *prometheus.GaugeVec
	oldest  *prometheus.GaugeVec
}

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_jobs", Help: "Background cache jobs by state: running or queued.",
		}, []string{"state"}),
		result: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_jobs_total", Help: "Background cache jobs that ended, by result: done, failed or dropped.",
		}, []string{"result"}),
	}
	m.warmed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_warm_total", Help: "Warmings of an image by the server itself that ended, by result: done, failed or dropped.",
	}, []string{"namespace", "result"})
	m.failing = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_warm_failing", Help: "Images to keep warm whose last warming failed.",
	}, []string{"namespace"})
	m.oldest = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_warm_oldest_success_timestamp_seconds",
		Help: "Of the last successful warming of each image, or where there was none the time when that was first wanted, the oldest.",
	}, []string{"namespace"})
	r.MustRegister(m.state, m.result, m.warmed, m.failing, m.oldest)
	m.jobs(0, 0)
	for _, result := range []string{"done", "failed", "dropped"} {
		m.result.WithLabelValues(result)
	}
	return m
}

func (m *Metrics) jobs(running, queued int) {
	if m == nil {
		return
	}
	m.state.WithLabelValues("running").Set(float64(running))
	m.state.WithLabelValues("queued").Set(float64(queued))
}

func (m *Metrics) jobEnded(result string) {
	if m != nil {
		m.result.WithLabelValues(result).Inc()
	}
}

func (m *Metrics) warmEnded(namespace, result string) {
	if m != nil {
		m.warmed.WithLabelValues(namespace, result).Inc()
	}
}

// warmth sets what is to be said of a namespace that has images to keep warm.
func (m *Metrics) warmth(namespace string, failing int, oldest time.Time) {
	if m == nil {
		return
	}
	for _, result := range []string{"done", "failed", "dropped"} {
		m.warmed.WithLabelValues(namespace, result) // so that it is there from the start
	}
	m.failing.WithLabelValues(namespace).Set(float64(failing))
	m.oldest.WithLabelValues(namespace).Set(float64(oldest.UnixMilli()) / 1000)
}

// coolDown forgets a namespace that has none any more.
func (m *Metrics) coolDown(namespace string) {
	if m != nil {
		m.warmed.DeletePartialMatch(prometheus.Labels{"namespace": namespace})
		m.failing.DeleteLabelValues(namespace)
		m.oldest.DeleteLabelValues(namespace)
	}
}
