package namespace

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// checkResult is the finding of a check of a tag behind an answer.
type checkResult uint8

const (
	checkConfirmed checkResult = iota
	checkMoved                 // the tag names another manifest
	checkFailed                // also if the tag is gone

	checkResults // how many there are
)

func (r checkResult) String() string {
	return [checkResults]string{"confirmed", "moved", "failed"}[r]
}

// checkCounters count the checks behind answers, by block. They outlive a change of the
// configuration.
type checkCounters struct{ blocks sync.Map } // from the key of a block to its *[checkResults]atomic.Int64

func (c *checkCounters) of(block string) *[checkResults]atomic.Int64 {
	counts, ok := c.blocks.Load(block)
	if !ok {
		counts, _ = c.blocks.LoadOrStore(block, new([checkResults]atomic.Int64))
	}
	return counts.(*[checkResults]atomic.Int64)
}

func (n *Namespace) countCheck(r checkResult) { n.cache.checked.of(n.Key())[r].Add(1) }

// namespaceCollector reads the lookups and the checks of all namespaces in force at each
// scrape.
type namespaceCollector struct {
	tables          *Current
	lookups, checks *prometheus.Desc

	prefetched, unused *prometheus.Desc
}

// RegisterMetrics registers the metrics of the namespaces in force.
func RegisterMetrics(r prometheus.Registerer, tables *Current) {
	r.MustRegister(namespaceCollector{
		tables: tables,
		lookups: prometheus.NewDesc("weir_lookups",
			"Lookups of manifests, lists and sizes of blobs at upstreams, by state: running, or waiting for a slot.",
			[]string{"namespace", "state"}, nil),
		checks: prometheus.NewDesc("weir_tag_checks_behind_total",
			"Checks of tags that ran in the background after an answer from the cache, by result: confirmed, moved or failed.",
			[]string{"namespace", "result"}, nil),
		prefetched: prometheus.NewDesc("weir_prefetched_bytes_total",
			"Bytes of layers that were downloaded before a client asked for them.", []string{"namespace"}, nil),
		unused: prometheus.NewDesc("weir_prefetched_unused_bytes_total",
			"Bytes of prefetched layers that no client asked for within an hour.", []string{"namespace"}, nil),
	})
}

func (c namespaceCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.lookups
	descs <- c.checks
	descs <- c.prefetched
	descs <- c.unused
}

func (c namespaceCollector) Collect(metrics chan<- prometheus.Metric) {
	table := c.tables.Load()
	if table == nil { // before the first configuration is in force
		return
	}
	for _, n := range table.Namespaces() {
		running, waiting := n.places.load()
		metrics <- prometheus.MustNewConstMetric(c.lookups, prometheus.GaugeValue, float64(running), n.Key(), "running")
		metrics <- prometheus.MustNewConstMetric(c.lookups, prometheus.GaugeValue, float64(waiting), n.Key(), "waiting")
		all, unused := n.cache.ahead.counts(n.Key())
		metrics <- prometheus.MustNewConstMetric(c.prefetched, prometheus.CounterValue, float64(all), n.Key())
		metrics <- prometheus.MustNewConstMetric(c.unused, prometheus.CounterValue, float64(unused), n.Key())
		counts := n.cache.checked.of(n.Key())
		for r := range checkResults {
			metrics <- prometheus.MustNewConstMetric(c.checks, prometheus.CounterValue, float64(counts[r].Load()), n.Key(), r.String())
		}
	}
}
