package evict

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts evictions. A nil *Metrics counts nothing.
type Metrics struct {
	evictedBytes map[reason]prometheus.Counter
	evictedAge   prometheus.Histogram
	lastAge      atomic.Int64 // in nanoseconds; 0: nothing was evicted
	objects      atomic.Int64 // evicted since the start
	bytes        atomic.Int64 // of these
}

const day = 24 * 60 * 60 // seconds

// ages returns the bounds of the ages of evicted content.
func ages() []float64 {
	return []float64{60, 600, 3600, 6 * 3600, day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day}
}

// NewMetrics registers the metrics of evictions.
func NewMetrics(r prometheus.Registerer) *Metrics {
	evictedBytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_store_evicted_bytes_total",
		Help: "Bytes of content that were evicted, by the reason: size (the limit of the store), block (that of a repository block), free (its filesystem ran short of space) or unused (not used for too long).",
	}, []string{"reason"})
	m := &Metrics{
		evictedBytes: make(map[reason]prometheus.Counter),
		evictedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weir_store_evicted_age_seconds",
			Help:    "Time since the last use of evicted content, except content that was evicted for the limit of its repository block.",
			Buckets: ages(),
		}),
	}
	// All series exist from the start, because rate() misses the first value of
	// a counter that appears later.
	for _, why := range []reason{forSize, forBlock, forFree, forUnused} {
		m.evictedBytes[why] = evictedBytes.WithLabelValues(string(why))
	}
	r.MustRegister(evictedBytes, m.evictedAge)
	return m
}

func (m *Metrics) evicted(why reason, bytes int64, unused time.Duration) {
	if m != nil {
		m.evictedBytes[why].Add(float64(bytes))
		m.objects.Add(1)
		m.bytes.Add(bytes)
		if why != forBlock {
			m.evictedAge.Observe(unused.Seconds())
			m.lastAge.Store(int64(max(1, unused)))
		}
	}
}

// LastAge returns how long the content that was evicted last had not been used, or 0 if nothing
// was evicted since the start.
func (m *Metrics) LastAge() time.Duration { return time.Duration(m.lastAge.Load()) }

// Evicted returns how many blobs were evicted since the start, and their bytes.
func (m *Metrics) Evicted() (objects, bytes int64) { return m.objects.Load(), m.bytes.Load() }

// SharedMetrics counts the evictions from a shared store. A nil *SharedMetrics counts nothing.
type SharedMetrics struct {
	evictedBytes, evictedObjects map[reason]prometheus.Counter
	evictedAge                   prometheus.Histogram
	objects, bytes, listed       prometheus.Gauge
	blockBytes                   *prometheus.GaugeVec // namespace
	index                        atomic.Pointer[SharedIndex]
}

// SharedIndex is how much a shared store had when it was last looked through.
type SharedIndex struct {
	Objects, Bytes int64 // bytes with those of records
	Listed         time.Time
}

// Indexed returns how much the store has. It reports false while another mirror evicts, or none.
func (m *SharedMetrics) Indexed() (SharedIndex, bool) {
	if m == nil {
		return SharedIndex{}, false
	}
	known := m.index.Load()
	if known == nil {
		return SharedIndex{}, false
	}
	return *known, true
}

// NewSharedMetrics registers the metrics of evictions from a bucket.
func NewSharedMetrics(r prometheus.Registerer) *SharedMetrics {
	evictedBytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_s3_evicted_bytes_total",
		Help: "Bytes of content that this mirror evicted from the bucket, by the reason: size, block (the limit of a repository block) or unused.",
	}, []string{"reason"})
	evictedObjects := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_s3_evicted_objects_total",
		Help: "Objects that this mirror evicted from the bucket, by the reason: size, block (the limit of a repository block) or unused.",
	}, []string{"reason"})
	m := &SharedMetrics{
		evictedBytes: make(map[reason]prometheus.Counter), evictedObjects: make(map[reason]prometheus.Counter),
		evictedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weir_s3_evicted_age_seconds",
			Help:    "Time since the last use of content that was evicted from the bucket, except content that was evicted for the limit of its repository block.",
			Buckets: ages(),
		}),
		objects: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_s3_index_objects",
			Help: "Objects in the bucket, if this mirror is the one that evicts there, else 0.",
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_s3_index_bytes",
			Help: "Bytes of content and records in the bucket, if this mirror is the one that evicts there, else 0.",
		}),
		listed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_s3_index_timestamp_seconds",
			Help: "When this mirror last listed the whole bucket, if it is the one that evicts there, else 0.",
		}),
	}
	m.blockBytes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_s3_block_bytes",
		Help: "Bytes of content in the bucket that a repository block brought in, if this mirror is the one that evicts there, else 0.",
	}, []string{"namespace"})
	for _, why := range []reason{forSize, forBlock, forUnused} {
		m.evictedBytes[why] = evictedBytes.WithLabelValues(string(why))
		m.evictedObjects[why] = evictedObjects.WithLabelValues(string(why))
	}
	r.MustRegister(evictedBytes, evictedObjects, m.evictedAge, m.objects, m.bytes, m.listed, m.blockBytes)
	return m
}

func (m *SharedMetrics) evicted(why reason, bytes int64, unused time.Duration) {
	if m != nil {
		m.evictedBytes[why].Add(float64(bytes))
		m.evictedObjects[why].Inc()
		if why != forBlock {
			m.evictedAge.Observe(unused.Seconds())
		}
	}
}

func (m *SharedMetrics) indexed(objects int, bytes int64, listed time.Time, blocks []Block) {
	if m != nil {
		m.blockBytes.Reset() // the configuration may have changed
		for _, block := range blocks {
			m.blockBytes.WithLabelValues(block.Name).Set(float64(block.Bytes))
		}
		m.objects.Set(float64(objects))
		m.bytes.Set(float64(bytes))
		m.listed.Set(float64(listed.Unix()))
		m.index.Store(&SharedIndex{int64(objects), bytes, listed})
	}
}

// Configured says which repository blocks there are, before this mirror evicts: rate() and alerts
// need series from the start.
func (m *SharedMetrics) Configured(blocks map[string]int64) {
	if m != nil {
		for name := range blocks {
			m.blockBytes.WithLabelValues(name)
		}
	}
}

// idle says that another mirror evicts, or none.
func (m *SharedMetrics) idle(blocks []Block) {
	if m != nil {
		m.blockBytes.Reset()
		for _, block := range blocks {
			m.blockBytes.WithLabelValues(block.Name)
		}
		m.objects.Set(0)
		m.bytes.Set(0)
		m.listed.Set(0)
		m.index.Store(nil)
	}
}
