package download

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of downloads. A nil *Metrics counts nothing.
type Metrics struct {
	running, waiting, readers prometheus.Gauge
	ended                     map[result]prometheus.Counter
	yielded                   prometheus.Counter
	duration                  prometheus.Histogram
	segments                  map[segmentResult]prometheus.Counter
}

// segmentResult is how a segment ended.
type segmentResult string

const (
	segmentDone    segmentResult = "complete"
	segmentYielded segmentResult = "yielded"
	segmentFailed  segmentResult = "failed"
	segmentDropped segmentResult = "dropped"
)

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	ended := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_downloads_ended_total",
		Help: "Downloads from upstreams that ended, by result: stored, unstored (the store did not take it), corrupt, failed (no upstream delivered it), abandoned (its last client left) or slow (no client waited, and its upstream was too slow).",
	}, []string{"result"})
	segments := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_download_segments_total",
		Help: "Segments of large blobs that were fetched in parallel to the main stream of their download, by result: complete, yielded (another download needed its place), failed (the download continued with one stream) or dropped (the download ended or paused, or a range of a client took over).",
	}, []string{"result"})
	m := &Metrics{
		segments: make(map[segmentResult]prometheus.Counter),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_downloads", Help: "Downloads from upstreams that are running or paused.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_downloads_waiting", Help: "Downloads that wait for a slot because the maximum number is running.",
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_download_readers", Help: "Clients that are reading a blob while it is being downloaded.",
		}),
		ended: make(map[result]prometheus.Counter),
		yielded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_downloads_yielded_total", Help: "How often a download gave its slot to a download of another repository block and waited for a new slot.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weir_download_duration_seconds",
			Help:    "Duration of downloads from upstreams that were stored, with their waits and pauses.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}),
	}
	// All series exist from the start: rate() misses the first value of a new one.
	for _, result := range results() {
		m.ended[result] = ended.WithLabelValues(string(result))
	}
	for _, result := range []segmentResult{segmentDone, segmentYielded, segmentFailed, segmentDropped} {
		m.segments[result] = segments.WithLabelValues(string(result))
	}
	r.MustRegister(m.running, m.waiting, m.readers, ended, m.yielded, m.duration, segments)
	return m
}

func (m *Metrics) downloadStarted() {
	if m != nil {
		m.running.Inc()
	}
}

func (m *Metrics) downloadWaits(more float64) {
	if m != nil {
		m.waiting.Add(more)
	}
}

func (m *Metrics) downloadYielded() {
	if m != nil {
		m.yielded.Inc()
	}
}

func (m *Metrics) segmentEnded(result segmentResult) {
	if m != nil {
		m.segments[result].Inc()
	}
}

func (m *Metrics) downloadEnded(result result, took time.Duration) {
	if m == nil {
		return
	}
	m.running.Dec()
	m.ended[result].Inc()
	if result == stored {
		m.duration.Observe(took.Seconds())
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
