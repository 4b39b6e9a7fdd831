package keepwarm

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of a warming, as metrics label them.
const (
	done    = "done"
	failed  = "failed"
	dropped = "dropped"
)

// Metrics measure how warm the images are. A nil *Metrics counts nothing.
type Metrics struct {
	warmed  *prometheus.CounterVec
	failing *prometheus.GaugeVec
	oldest  *prometheus.GaugeVec
}

// NewMetrics registers the metrics of a Warmer.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		warmed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_warm_total", Help: "Warmings of images in warm lists that ended, by result: done, failed or dropped.",
		}, []string{"namespace", "result"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_warm_failing", Help: "Images in warm lists whose last warming failed.",
		}, []string{"namespace"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_warm_oldest_success_timestamp_seconds",
			Help: "The time of the last successful warming of the image that was warmed longest ago. An image that was never warmed counts from the time when it was first configured.",
		}, []string{"namespace"}),
	}
	r.MustRegister(m.warmed, m.failing, m.oldest)
	return m
}

func (m *Metrics) ended(namespace, result string) {
	if m != nil {
		m.warmed.WithLabelValues(namespace, result).Inc()
	}
}

// setWarmGauges updates the gauges of a namespace that has images to keep warm.
func (m *Metrics) setWarmGauges(namespace string, failing int, oldest time.Time) {
	if m == nil {
		return
	}
	for _, result := range []string{done, failed, dropped} {
		m.warmed.WithLabelValues(namespace, result) // the series exists from the start
	}
	m.failing.WithLabelValues(namespace).Set(float64(failing))
	m.oldest.WithLabelValues(namespace).Set(float64(oldest.UnixMilli()) / 1000)
}

// dropNamespace removes the series of a namespace that keeps no image warm any
// more.
func (m *Metrics) dropNamespace(namespace string) {
	if m != nil {
		m.warmed.DeletePartialMatch(prometheus.Labels{"namespace": namespace})
		m.failing.DeleteLabelValues(namespace)
		m.oldest.DeleteLabelValues(namespace)
	}
}
