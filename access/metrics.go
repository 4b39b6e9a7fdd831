package access

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count identifications and refusals. Their labels are fixed words and the keys
// of repository blocks. A nil *Metrics counts nothing.
type Metrics struct {
	identified map[Method]*[results]prometheus.Counter
	denied     *prometheus.CounterVec // namespace, reason
	blocks     atomic.Pointer[map[string]bool]
}

// result is that of an identification.
type result int

const (
	success result = iota
	failure
	busy
	results // how many there are
)

func (r result) String() string { return [results]string{"success", "failure", "busy"}[r] }

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_auth_total",
		Help: "Requests while access is restricted, by the credentials in them and the result: success, failure, or busy if too many passwords waited to be verified.",
	}, []string{"method", "result"})
	m := &Metrics{
		identified: make(map[Method]*[results]prometheus.Counter),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_access_denied_total", Help: "Requests that a rule denied, by rule. The namespace is empty if the request is for no namespace.",
		}, []string{"namespace", "reason"}),
	}
	r.MustRegister(total, m.denied)
	for method, possible := range map[Method][]result{
		MethodNone: {success}, MethodCertificate: {success}, MethodPassword: {success, failure, busy},
		MethodToken: {success, failure}, MethodOIDC: {success, failure}, MethodUnknown: {failure},
	} {
		m.identified[method] = new([results]prometheus.Counter)
		for _, one := range possible {
			m.identified[method][one] = total.WithLabelValues(string(method), one.String())
		}
	}
	m.setBlocks(nil)
	return m
}

// setBlocks makes these keys the only ones that are counted, from zero on.
func (m *Metrics) setBlocks(keys []string) {
	if m == nil {
		return
	}
	now := map[string]bool{"": true}
	for _, key := range keys {
		now[key] = true
	}
	before := m.blocks.Swap(&now)
	for key := range now {
		for _, layer := range allLayers() {
			m.denied.WithLabelValues(key, string(layer))
		}
	}
	if before == nil {
		return
	}
	for key := range *before {
		if !now[key] {
			m.denied.DeletePartialMatch(prometheus.Labels{"namespace": key})
		}
	}
}

// identify counts an identification.
func (m *Metrics) identify(method Method, r result) {
	if m != nil {
		m.identified[method][r].Inc()
	}
}

// deny counts a refusal. One for a block that a reload has removed is counted nowhere.
func (m *Metrics) deny(block string, layer Layer) {
	if m != nil && (*m.blocks.Load())[block] {
		m.denied.WithLabelValues(block, string(layer)).Inc()
	}
}
