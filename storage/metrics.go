package storage

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of the downloads. A nil *Metrics counts nothing.
type Metrics struct {
	flights, readers prometheus.Gauge
}

// NewMetrics registers the package's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		flights: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flights", Help: "Downloads from upstreams that are running or paused.",
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_flight_readers", Help: "Clients that are reading a content while it is being downloaded.",
		}),
	}
	r.MustRegister(m.flights, m.readers)
	return m
}

func (m *Metrics) flightStarted() {
	if m != nil {
		m.flights.Inc()
	}
}

func (m *Metrics) flightEnded() {
	if m != nil {
		m.flights.Dec()
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
