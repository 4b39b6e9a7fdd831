package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the upstream requests of all clients of a process. A nil
// *Metrics counts nothing. The series of an upstream exist, at zero, from its
// first client on, and disappear with its last one.
type Metrics struct {
	requests  *prometheus.CounterVec   // upstream, operation, class
	duration  *prometheus.HistogramVec // upstream
	bytes     *prometheus.CounterVec   // upstream
	corrupt   *prometheus.CounterVec   // upstream
	limit     *prometheus.GaugeVec     // upstream
	remaining *prometheus.GaugeVec     // upstream
	tokens    *prometheus.CounterVec   // upstream, result
	connWait  *prometheus.CounterVec   // upstream
	throttled *prometheus.CounterVec   // upstream, limit

	fetched atomic.Int64 // bytes of content, of all upstreams that there were

	mu      sync.Mutex
	clients map[*Client]struct{}
}

// NewMetrics returns metrics that are registered with registerer.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	upstream := []string{"upstream"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_requests_total",
			Help: "Requests to upstream registries by outcome. A body that breaks off counts once more, as unavailable.",
		}, []string{"upstream", "operation", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "weir_upstream_request_duration_seconds",
			Help:    "Time from a request to an upstream registry to the headers of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 15), // up to 82 s
		}, upstream),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_bytes_total",
			Help: "Bytes of content read from upstream registries.",
		}, upstream),
		corrupt: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_corrupt_total",
			Help: "Blobs and manifests that an upstream registry delivered, in whole or in part, and that did not match their digest.",
		}, upstream),
		limit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_upstream_ratelimit_limit",
			Help: "Requests that an upstream registry allows per window, as it last reported.",
		}, upstream),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_upstream_ratelimit_remaining",
			Help: "Requests that an upstream registry still allows in the window, as it last reported.",
		}, upstream),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_token_requests_total",
			Help: "Requests to the token services of upstream registries by outcome.",
		}, []string{"upstream", "result"}),
		connWait: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_connection_wait_seconds_total",
			Help: "Time that requests to an upstream registry waited for a connection because the limit was reached.",
		}, upstream),
		throttled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_throttled_seconds_total",
			Help: "Time that bodies from an upstream registry waited for the limit of bytes per second of the upstream, or that of all upstreams (global).",
		}, []string{"upstream", "limit"}),
		clients: make(map[*Client]struct{}),
	}
	registerer.MustRegister(m.requests, m.duration, m.bytes, m.corrupt, m.limit, m.remaining, m.tokens, m.connWait, m.throttled, cooldownCollector{m}, connectionCollector{m})
	return m
}

// Fetched returns how many bytes of content were read from upstream registries since the start.
func (m *Metrics) Fetched() int64 { return m.fetched.Load() }

// add returns the metrics of a client's upstream.
func (m *Metrics) add(c *Client) *upstreamMetrics {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients[c] = struct{}{}
	u := &upstreamMetrics{
		all: m, host: c.label,
		duration: m.duration.WithLabelValues(c.label),
		bytes:    m.bytes.WithLabelValues(c.label),
		corrupt:  m.corrupt.WithLabelValues(c.label),
		connWait: m.connWait.WithLabelValues(c.label),
		slowed:   [2]prometheus.Counter{m.throttled.WithLabelValues(c.label, "upstream"), m.throttled.WithLabelValues(c.label, "global")},
		requests: make(map[string]*[classes]prometheus.Counter),
	}
	for class := ClassOK; class < classes; class++ {
		u.tokens[class] = m.tokens.WithLabelValues(c.label, class.String())
	}
	for _, op := range []string{opManifest, opBlob, opTags, opReferrers} {
		u.requests[op] = new([classes]prometheus.Counter)
		for class := ClassOK; class < classes; class++ {
			u.requests[op][class] = m.requests.WithLabelValues(c.label, op, class.String())
		}
	}
	return u
}

// has reports whether an upstream has a client. The caller holds the mutex.
func (m *Metrics) has(host string) bool {
	for c := range m.clients {
		if c.label == host {
			return true
		}
	}
	return false
}

// upstreamMetrics are the metrics of one upstream, looked up once, so that the
// last requests of a closed client create no series again. A nil
// *upstreamMetrics counts nothing.
type upstreamMetrics struct {
	all            *Metrics
	host           string // host:port
	duration       prometheus.Observer
	bytes, corrupt prometheus.Counter
	connWait       prometheus.Counter
	slowed         [2]prometheus.Counter // by the limit of a throttle
	tokens         [classes]prometheus.Counter
	requests       map[string]*[classes]prometheus.Counter // by operation
}

// remove forgets a client, and the upstream with its last one.
func (u *upstreamMetrics) remove(c *Client) {
	if u == nil {
		return
	}
	m := u.all
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.clients, c)
	if m.has(c.label) {
		return // another client of the same host keeps the series
	}
	label := prometheus.Labels{"upstream": c.label}
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.requests, m.duration, m.bytes, m.corrupt, m.limit, m.remaining, m.tokens, m.connWait, m.throttled} {
		vec.DeletePartialMatch(label)
	}
}

func (u *upstreamMetrics) request(op string, class Class, took time.Duration) {
	if u != nil {
		u.requests[op][class].Inc()
		u.duration.Observe(took.Seconds())
	}
}

func (u *upstreamMetrics) broken(op string) {
	if u != nil {
		u.requests[op][ClassUnavailable].Inc()
	}
}

func (u *upstreamMetrics) mismatch() {
	if u != nil {
		u.corrupt.Inc()
	}
}

func (u *upstreamMetrics) token(class Class) {
	if u != nil {
		u.tokens[class].Inc()
	}
}

func (u *upstreamMetrics) received(n int) {
	if u != nil {
		u.bytes.Add(float64(n))
		u.all.fetched.Add(int64(n))
	}
}

func (u *upstreamMetrics) waitedForConnection(d time.Duration) {
	if u != nil {
		u.connWait.Add(d.Seconds())
	}
}

func (u *upstreamMetrics) throttled(limit int, d time.Duration) {
	if u != nil {
		u.slowed[limit].Add(d.Seconds())
	}
}

func (u *upstreamMetrics) rateLimit(limit, remaining int) {
	if u == nil {
		return
	}
	u.all.mu.Lock()
	defer u.all.mu.Unlock()
	if u.all.has(u.host) { // else the series are gone and must not come back
		u.all.limit.WithLabelValues(u.host).Set(float64(limit))
		u.all.remaining.WithLabelValues(u.host).Set(float64(remaining))
	}
}

// parseRateLimit reads ratelimit-limit and ratelimit-remaining, each of the
// form "100;w=21600".
func parseRateLimit(header http.Header) (limit, remaining int, ok bool) {
	number := func(name string) (int, error) {
		value, _, _ := strings.Cut(header.Get(name), ";")
		return strconv.Atoi(strings.TrimSpace(value))
	}
	limit, err := number("RateLimit-Limit")
	if err != nil {
		return 0, 0, false
	}
	remaining, err = number("RateLimit-Remaining")
	return limit, remaining, err == nil && limit >= 0 && remaining >= 0
}

// parseWindow reads the window of a limit of the form "100;w=21600". It returns 0
// if there is none.
func parseWindow(header http.Header) time.Duration {
	_, params, _ := strings.Cut(header.Get("RateLimit-Limit"), ";")
	for param := range strings.SplitSeq(params, ";") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(param), "w="); ok {
			if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
				return time.Duration(seconds) * time.Second
			}
		}
	}
	return 0
}
