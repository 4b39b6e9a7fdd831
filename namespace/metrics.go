package namespace

import "github.com/prometheus/client_golang/prometheus"

// lookupsCollector reads the lookups of all namespaces in force at each scrape.
type lookupsCollector struct {
	tables  *Current
	lookups *prometheus.Desc
}

// RegisterMetrics registers the metrics of the lookups of the namespaces in force.
func RegisterMetrics(r prometheus.Registerer, tables *Current) {
	r.MustRegister(lookupsCollector{tables, prometheus.NewDesc("weir_lookups",
		"Lookups of manifests, lists and sizes of blobs at upstreams, by state: running, or waiting for a place.",
		[]string{"namespace", "state"}, nil)})
}

func (c lookupsCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.lookups }

func (c lookupsCollector) Collect(metrics chan<- prometheus.Metric) {
	table := c.tables.Load()
	if table == nil { // before the first configuration is in force
		return
	}
	for _, n := range table.Namespaces() {
		running, waiting := n.places.load()
		metrics <- prometheus.MustNewConstMetric(c.lookups, prometheus.GaugeValue, float64(running), n.Key(), "running")
		metrics <- prometheus.MustNewConstMetric(c.lookups, prometheus.GaugeValue, float64(waiting), n.Key(), "waiting")
	}
}
