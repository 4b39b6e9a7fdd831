package upstream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// cooldownState is why a registry is or is not asked. The later the state, the
// longer it may last.
type cooldownState uint8

const (
	stateAvailable   cooldownState = iota
	stateProbing                   // could not be connected to; the next request finds out
	stateUnreachable               // the circuit breaker is open
	stateLimited                   // it said 429
	stateCorrupt                   // it delivered the wrong bytes repeatedly

	cooldownStates // how many there are
)

// String returns the state as metrics name it.
func (s cooldownState) String() string {
	switch s {
	case stateAvailable:
		return "available"
	case stateProbing:
		return "probing"
	case stateUnreachable:
		return "unreachable"
	case stateLimited:
		return "rate_limited"
	default:
		return "corrupt"
	}
}

// state returns why enter refuses, or would refuse a second request at once.
func (c *cooldown) state(now time.Time) cooldownState {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case now.Before(c.limitedUntil):
		return stateLimited
	case now.Before(c.corruptUntil):
		return stateCorrupt
	case c.failed < breakerThreshold:
		return stateAvailable
	case now.Before(c.openUntil):
		return stateUnreachable
	default:
		return stateProbing
	}
}

// cooldownCollector asks clients at the time of the scrape, since a rest ends
// without an event that could reset a gauge.
type cooldownCollector struct{ metrics *Metrics }

func cooldownDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_cooldown",
		"Whether an upstream registry is left alone for a while: after 429, since it cannot be connected to, or because it delivered the wrong bytes repeatedly.",
		[]string{"upstream"}, nil)
}

func stateDesc() *prometheus.Desc {
	return prometheus.NewDesc("weir_upstream_state",
		"1 for the state that an upstream registry is in: available, rate_limited (after 429), unreachable (the circuit breaker is open), probing (it is half open), or corrupt (it delivered the wrong bytes repeatedly).",
		[]string{"upstream", "state"}, nil)
}

// Describe implements prometheus.Collector.
func (cooldownCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- cooldownDesc()
	ch <- stateDesc()
}

// Collect implements prometheus.Collector. Several clients of one host, as
// before and after a reload, are one upstream, which is as bad as the worst.
func (r cooldownCollector) Collect(ch chan<- prometheus.Metric) {
	type health struct {
		coolingDown float64
		state       cooldownState
	}
	now := time.Now()
	hosts := make(map[string]health)
	r.metrics.mu.Lock()
	for c := range r.metrics.clients {
		h := hosts[c.label]
		if c.cooldown.left(now) > 0 {
			h.coolingDown = 1
		}
		h.state = max(h.state, c.cooldown.state(now))
		hosts[c.label] = h
	}
	r.metrics.mu.Unlock()
	for host, h := range hosts {
		ch <- prometheus.MustNewConstMetric(cooldownDesc(), prometheus.GaugeValue, h.coolingDown, host)
		for state := stateAvailable; state < cooldownStates; state++ {
			value := 0.0
			if state == h.state {
				value = 1
			}
			ch <- prometheus.MustNewConstMetric(stateDesc(), prometheus.GaugeValue, value, host, state.String())
		}
	}
}
