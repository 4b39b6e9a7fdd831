package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what all clients of a process ask of their upstreams. A nil
// *Metrics counts nothing.
type Metrics struct {
	requests  *prometheus.CounterVec   // upstream, operation, class
	duration  *prometheus.HistogramVec // upstream
	bytes     *prometheus.CounterVec   // upstream
	limit     *prometheus.GaugeVec     // upstream
	remaining *prometheus.GaugeVec     // upstream
	tokens    *prometheus.CounterVec   // upstream, result
	resting   *restingCollector
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
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}, upstream),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_upstream_bytes_total",
			Help: "Bytes of content read from upstream registries.",
		}, upstream),
		limit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_upstream_ratelimit_limit",
			Help: "Requests that an upstream registry allows per window, as it last said.",
		}, upstream),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_upstream_ratelimit_remaining",
			Help: "Requests that an upstream registry still allows in the window, as it last said.",
		}, upstream),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_token_requests_total",
			Help: "Requests to the token services of upstream registries by outcome.",
		}, []string{"upstream", "result"}),
		resting: &restingCollector{clients: make(map[*Client]struct{})},
	}
	registerer.MustRegister(m.requests, m.duration, m.bytes, m.limit, m.remaining, m.tokens, m.resting)
	return m
}

func (m *Metrics) request(host, op string, class Class, took time.Duration) {
	if m != nil {
		m.requests.WithLabelValues(host, op, class.String()).Inc()
		m.duration.WithLabelValues(host).Observe(took.Seconds())
	}
}

func (m *Metrics) broken(host, op string) {
	if m != nil {
		m.requests.WithLabelValues(host, op, ClassUnavailable.String()).Inc()
	}
}

func (m *Metrics) token(host string, class Class) {
	if m != nil {
		m.tokens.WithLabelValues(host, class.String()).Inc()
	}
}

// byteCounter is looked up once per body, not once per read.
func (m *Metrics) byteCounter(host string) func(n int) {
	if m == nil {
		return func(int) {}
	}
	counter := m.bytes.WithLabelValues(host)
	return func(n int) { counter.Add(float64(n)) }
}

func (m *Metrics) rateLimit(host string, limit, remaining int) {
	if m != nil {
		m.limit.WithLabelValues(host).Set(float64(limit))
		m.remaining.WithLabelValues(host).Set(float64(remaining))
	}
}

func (m *Metrics) add(c *Client) {
	if m != nil {
		m.resting.add(c)
	}
}

func (m *Metrics) remove(c *Client) {
	if m != nil {
		m.resting.remove(c)
	}
}

// restingCollector asks clients at the time of the scrape, since a rest ends
// without an event that could reset a gauge.
type restingCollector struct {
	mu      sync.Mutex
	clients map[*Client]struct{}
}

func restingDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_resting",
		"Whether an upstream registry is left alone for a while: after 429, since it cannot be connected to, or because it delivered the wrong bytes repeatedly.",
		[]string{"upstream"}, nil)
}

func (r *restingCollector) add(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[c] = struct{}{}
}

func (r *restingCollector) remove(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.clients, c)
}

// Describe implements prometheus.Collector.
func (r *restingCollector) Describe(ch chan<- *prometheus.Desc) { ch <- restingDesc() }

// Collect implements prometheus.Collector. Several clients of one host, as
// before and after a reload, are one series.
func (r *restingCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	byHost := make(map[string]float64)
	r.mu.Lock()
	for c := range r.clients {
		value := 0.0
		if c.rest.left(now) > 0 {
			value = 1
		}
		byHost[c.label] = max(byHost[c.label], value)
	}
	r.mu.Unlock()
	for host, value := range byHost {
		ch <- prometheus.MustNewConstMetric(restingDesc(), prometheus.GaugeValue, value, host)
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

// parseWindow reads the window of a limit of the form "100;w=21600"; 0 where it
// is not told.
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
