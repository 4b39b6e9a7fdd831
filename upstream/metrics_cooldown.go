package upstream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// cooldownCollector asks clients at the time of the scrape, since a cooldown ends
// without an event that could reset a gauge.
type cooldownCollector struct{ metrics *Metrics }

func cooldownDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_cooldown",
		"Whether no request of an operation (manifest, blob, list, token) is sent to an upstream registry: after 429 to that operation, or after failed connections, requests without an answer, or corrupt content.",
		[]string{"upstream", "operation"}, nil)
}

func stateDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_state",
		"1 for the state that an upstream registry is in: available, rate_limited (an operation, after 429), unreachable (the circuit breaker is open), probing (it is half open), or corrupt (it delivered corrupt content repeatedly).",
		[]string{"upstream", "state"}, nil)
}

func (cooldownCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- cooldownDesc()
	ch <- stateDesc()
}

// Collect reports one state for all clients of a host, such as those before and
// after a reload: the last one in the order of states.
func (r cooldownCollector) Collect(ch chan<- prometheus.Metric) {
	type health struct {
		coolingDown [operations]float64
		state       cooldownState
	}
	now := time.Now()
	hosts := make(map[string]health)
	r.metrics.mu.Lock()
	for c := range r.metrics.clients {
		h := hosts[c.label]
		state, left := c.cooldown.status(now)
		for op := range left {
			if left[op] > 0 {
				h.coolingDown[op] = 1
			}
		}
		h.state = max(h.state, state)
		hosts[c.label] = h
	}
	r.metrics.mu.Unlock()
	for host, h := range hosts {
		for op := range operations {
			ch <- prometheus.MustNewConstMetric(cooldownDesc(), prometheus.GaugeValue, h.coolingDown[op], host, op.String())
		}
		for state := stateAvailable; state < cooldownStates; state++ {
			value := 0.0
			if state == h.state {
				value = 1
			}
			ch <- prometheus.MustNewConstMetric(stateDesc(), prometheus.GaugeValue, value, host, state.String())
		}
	}
}
