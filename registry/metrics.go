package registry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
)

// Metrics count and time the requests of clients. Their labels are namespaces of
// the configuration and fixed words: never a name that a client sent. A nil
// *Metrics counts nothing.
type Metrics struct {
	requests *prometheus.CounterVec   // namespace, operation, status, cache
	duration *prometheus.HistogramVec // namespace, operation
	bytes    *prometheus.CounterVec   // namespace, cache
	stale    *prometheus.CounterVec   // namespace, reason
	aborted  *prometheus.CounterVec   // namespace

	mu         sync.Mutex // held while series are added or removed
	namespaces atomic.Pointer[map[string]*namespaceMetrics]
}

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_requests_total", Help: "Requests of clients, by the role of the cache in the answer.",
		}, []string{"namespace", "operation", "status", "cache"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_request_duration_seconds", Help: "Time from a client's request to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800},
		}, []string{"namespace", "operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_served_bytes_total", Help: "Bytes of bodies sent to clients.",
		}, []string{"namespace", "cache"}),
		stale: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_stale_answers_total",
			Help: "Answers that came from the cache because the upstream failed, by failure: unavailable, rate_limited, denied or not_found; or busy, because the mirror had too many lookups to ask it.",
		}, []string{"namespace", "reason"}),
		aborted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_requests_aborted_total",
			Help: "Answers that were cut off after they had begun, because the content could not be delivered completely. Their status is the one that was sent at the beginning.",
		}, []string{"namespace"}),
	}
	r.MustRegister(m.requests, m.duration, m.bytes, m.stale, m.aborted)
	m.namespaces.Store(&map[string]*namespaceMetrics{"": m.globalSeries()})
	return m
}

// SetNamespaces makes the namespaces of a table those that are counted. Their
// series exist from the start, at zero. The series of all others are removed.
func (m *Metrics) SetNamespaces(table *namespace.Table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := *m.namespaces.Load()
	now := map[string]*namespaceMetrics{"": before[""]}
	for _, n := range table.Namespaces() {
		if now[n.Key()] = before[n.Key()]; now[n.Key()] == nil {
			now[n.Key()] = m.namespaceSeries(n.Key())
		}
	}
	m.namespaces.Store(&now)
	for key := range before {
		if now[key] != nil {
			continue
		}
		label := prometheus.Labels{"namespace": key}
		for _, vec := range []interface {
			DeletePartialMatch(prometheus.Labels) int
		}{m.requests, m.duration, m.bytes, m.stale, m.aborted} {
			vec.DeletePartialMatch(label)
		}
	}
}

// served is a request that has been answered.
type served struct {
	status  int
	bytes   int64 // of the body
	aborted bool  // the body is not whole, through no doing of the client
	took    time.Duration
}

// request counts a request. One for a namespace that a reload has removed in the
// meantime is counted nowhere.
func (m *Metrics) request(e *entry, s served) {
	if m == nil {
		return
	}
	n := (*m.namespaces.Load())[e.namespace]
	if n == nil {
		return
	}
	a := answer{e.op.label(), s.status, cacheLabel(e.outcome.Cache)}
	if counter := n.requests[a]; counter != nil {
		counter.Inc()
	} else {
		m.countUnexpected(e.namespace, n, a)
	}
	n.duration[a.operation].Observe(s.took.Seconds())
	n.bytes[a.cache].Add(float64(s.bytes))
	if e.outcome.Cache == namespace.Stale {
		n.stale[e.outcome.Failure].Inc()
	}
	if s.aborted {
		n.aborted.Inc()
	}
}

// countUnexpected counts an answer that has no series yet.
func (m *Metrics) countUnexpected(key string, n *namespaceMetrics, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if (*m.namespaces.Load())[key] == n {
		m.requests.WithLabelValues(key, a.operation, strconv.Itoa(a.status), a.cache).Inc()
	}
}

// answer holds the labels that distinguish requests.
type answer struct {
	operation string
	status    int
	cache     string
}

// namespaceMetrics are the series of one namespace, looked up once.
type namespaceMetrics struct {
	requests map[answer]prometheus.Counter
	duration map[string]prometheus.Observer // by operation
	bytes    map[string]prometheus.Counter  // by cache
	stale    map[upstream.Class]prometheus.Counter
	aborted  prometheus.Counter
}

// globalSeries returns the metrics of requests that are for no namespace.
func (m *Metrics) globalSeries() *namespaceMetrics {
	n := m.namespace("", namespace.None)
	m.preRegister(n, "", []Operation{OpPing}, []int{200}, namespace.None)
	m.preRegister(n, "", operations(), []int{404}, namespace.None)
	return n
}

// namespaceSeries returns the metrics of a namespace. The series that alerts read
// exist from the start, at zero.
func (m *Metrics) namespaceSeries(key string) *namespaceMetrics {
	n := m.namespace(key, namespace.None, namespace.Hit, namespace.Revalidated, namespace.Stale, namespace.Miss, namespace.Collapsed)
	for _, class := range []upstream.Class{upstream.ClassNotFound, upstream.ClassDenied, upstream.ClassUnavailable, upstream.ClassRateLimited} {
		n.stale[class] = m.stale.WithLabelValues(key, class.String())
	}
	n.stale[upstream.ClassOK] = m.stale.WithLabelValues(key, "busy") // the upstream was not asked
	pulls := []Operation{OpManifest, OpBlob, OpTags, OpReferrers}
	m.preRegister(n, key, pulls, []int{200}, namespace.Hit, namespace.Miss, namespace.Collapsed)
	m.preRegister(n, key, []Operation{OpBlob}, []int{206}, namespace.Hit, namespace.Miss, namespace.Collapsed)
	m.preRegister(n, key, []Operation{OpManifest, OpBlob}, []int{200}, namespace.Revalidated)
	m.preRegister(n, key, []Operation{OpManifest, OpTags, OpReferrers}, []int{200}, namespace.Stale)
	m.preRegister(n, key, pulls, []int{403, 404, 429, 500, 502, 503, 504}, namespace.None)
	m.preRegister(n, key, []Operation{OpWrite}, []int{401}, namespace.None)
	return n
}

func operations() []Operation { return []Operation{OpManifest, OpBlob, OpTags, OpReferrers, OpWrite} }

func (m *Metrics) namespace(key string, caches ...namespace.CacheStatus) *namespaceMetrics {
	n := &namespaceMetrics{
		requests: make(map[answer]prometheus.Counter),
		duration: make(map[string]prometheus.Observer),
		bytes:    make(map[string]prometheus.Counter),
		stale:    make(map[upstream.Class]prometheus.Counter),
		aborted:  m.aborted.WithLabelValues(key),
	}
	for _, op := range operations() {
		n.duration[op.label()] = m.duration.WithLabelValues(key, op.label())
	}
	for _, cache := range caches {
		n.bytes[cacheLabel(cache)] = m.bytes.WithLabelValues(key, cacheLabel(cache))
	}
	return n
}

func (m *Metrics) preRegister(n *namespaceMetrics, key string, ops []Operation, statuses []int, caches ...namespace.CacheStatus) {
	for _, op := range ops {
		for _, status := range statuses {
			for _, cache := range caches {
				a := answer{op.label(), status, cacheLabel(cache)}
				n.requests[a] = m.requests.WithLabelValues(key, a.operation, strconv.Itoa(status), a.cache)
			}
		}
	}
}
