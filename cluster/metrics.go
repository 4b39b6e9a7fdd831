package cluster

import "github.com/prometheus/client_golang/prometheus"

// Metrics count the work that replicas do for each other. A nil *Metrics counts nothing.
type Metrics struct {
	leases *prometheus.CounterVec // result
	bytes  *prometheus.CounterVec // direction
}

// result is how a download came to its source.
type result string

const (
	acquired  result = "acquired"   // this replica's turn
	takenOver result = "taken_over" // the same, after its holder failed
	followed  result = "followed"   // another replica delivers
	alone     result = "alone"      // this replica downloads without a turn
	lost      result = "lost"       // another replica took the turn meanwhile
)

const (
	received = "received"
	sent     = "sent"
)

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		leases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cluster_lease_total",
			Help: "Downloads by how their source was chosen: acquired, taken_over (this replica asks the upstreams), followed (another replica delivers), alone (without a lease), and leases that were lost.",
		}, []string{"result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cluster_peer_bytes_total", Help: "Bytes of content between replicas, by direction: received or sent.",
		}, []string{"direction"}),
	}
	for _, r := range []result{acquired, takenOver, followed, alone, lost} {
		m.leases.WithLabelValues(string(r))
	}
	m.bytes.WithLabelValues(received)
	m.bytes.WithLabelValues(sent)
	r.MustRegister(m.leases, m.bytes)
	return m
}

func (m *Metrics) lease(r result) {
	if m != nil {
		m.leases.WithLabelValues(string(r)).Inc()
	}
}

func (m *Metrics) moved(direction string, bytes int64) {
	if m != nil {
		m.bytes.WithLabelValues(direction).Add(float64(bytes))
	}
}
