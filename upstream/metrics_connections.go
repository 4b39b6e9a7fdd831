package upstream

import "github.com/prometheus/client_golang/prometheus"

// connectionCollector reports the connections of upstreams that have a limit for them.
type connectionCollector struct{ metrics *Metrics }

func connectionsDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_connections",
		"Connections to an upstream registry with a limit that carry a request (state busy), requests that wait for one (waiting), and the limit (max).",
		[]string{"upstream", "state"}, nil)
}

func (connectionCollector) Describe(ch chan<- *prometheus.Desc) { ch <- connectionsDesc() }

// Collect adds up the clients of a host, such as those with different credentials.
func (r connectionCollector) Collect(ch chan<- prometheus.Metric) {
	type load struct{ busy, waiting, limit int }
	hosts := make(map[string]load)
	r.metrics.mu.Lock()
	for c := range r.metrics.clients {
		if c.limit == nil {
			continue
		}
		h := hosts[c.label]
		busy, waiting := c.limit.load()
		hosts[c.label] = load{h.busy + busy, h.waiting + waiting, h.limit + c.limit.size}
	}
	r.metrics.mu.Unlock()
	for host, h := range hosts {
		for state, n := range map[string]int{"busy": h.busy, "waiting": h.waiting, "max": h.limit} {
			ch <- prometheus.MustNewConstMetric(connectionsDesc(), prometheus.GaugeValue, float64(n), host, state)
		}
	}
}
