package app

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
)

// newGatherer returns a registry of metrics with those of the process: its build,
// the Go runtime, and the figures of the kernel.
func newGatherer() *prometheus.Registry {
	r := prometheus.NewRegistry()
	version, revision := Version()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_build_info", Help: "1, labeled with the running version.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision},
	})
	info.Set(1)
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// measure registers the gauges that are read from the store at each scrape.
func (s *storageParts) measure(cfg config.FS, metrics prometheus.Registerer) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	gauge("weir_store_bytes", "Bytes of stored content.", nil, func() float64 {
		bytes, _ := s.driver.Size()
		return float64(bytes)
	})
	gauge("weir_store_objects", "Stored objects: blobs and manifests.", nil, func() float64 {
		_, objects := s.driver.Size()
		return float64(objects)
	})
	gauge("weir_store_max_bytes", "Bytes that content and running downloads may take (blob_store.fs.max_size); 0 if there is no limit.", nil, func() float64 {
		return float64(max(cfg.MaxSize, 0))
	})
	gauge("weir_store_free_bytes", "Free bytes on the filesystem of the store; -1 if unknown.", nil, func() float64 {
		free, err := s.driver.Spools().Free()
		if err != nil {
			return -1
		}
		return float64(free)
	})
	gauge("weir_store_writable", "Whether files can be created in the store, as /readyz reports it.", nil, func() float64 {
		return boolGauge(s.driver.Writable(context.Background()) == nil)
	})
	for kind, health := range map[string]*storage.Health{"content": s.content, "records": s.records} {
		gauge("weir_store_failing", "Whether the last content, or record of a tag or of possession, could not be stored; content that is not stored is served directly from the upstream.",
			prometheus.Labels{"kind": kind}, func() float64 { return boolGauge(health.Err() != nil) })
	}
	metrics.MustRegister(newBlockCollector(s))
	s.measureFlushes(metrics)
	s.quarantined = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weir_store_quarantined_total", Help: "Objects that had become corrupt in the store and were removed from it.",
	})
	metrics.MustRegister(s.quarantined)
}

// blockCollector reads the bytes of the repository blocks from the store at each scrape.
type blockCollector struct {
	storage      *storageParts
	bytes, limit *prometheus.Desc
}

func newBlockCollector(s *storageParts) blockCollector {
	return blockCollector{
		storage: s,
		bytes: prometheus.NewDesc("weir_store_block_bytes", "Bytes of stored content that a repository block brought in, once the content of the store is indexed.",
			[]string{"namespace"}, nil),
		limit: prometheus.NewDesc("weir_store_block_max_bytes", "Bytes of stored content that a repository block may have (its max_size); 0 if there is no limit.",
			[]string{"namespace"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c blockCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.bytes
	descs <- c.limit
}

// Collect implements prometheus.Collector.
func (c blockCollector) Collect(metrics chan<- prometheus.Metric) {
	blocks, known := c.storage.store.Blocks()
	for _, block := range blocks {
		if known {
			metrics <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(block.Bytes), block.Name)
		}
		metrics <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(block.Limit), block.Name)
	}
}

// measureFlushes registers the metrics of flushes behind commits.
func (s *storageParts) measureFlushes(metrics prometheus.Registerer) {
	counter := func(name, help, result string, value func(disk.FlushStats) int64) {
		opts := prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"result": result}}
		metrics.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(value(s.driver.FlushStats())) }))
	}
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_store_unflushed_objects", Help: "Stored objects that might not survive a power failure yet.",
	}, func() float64 { return float64(s.driver.FlushStats().Marked) }))
	const flushes = "Flushes of the filesystem of the store (blob_store.fs.sync_to_disk)."
	counter("weir_store_flushes_total", flushes, "ok", func(f disk.FlushStats) int64 { return f.Flushes })
	counter("weir_store_flushes_total", flushes, "error", func(f disk.FlushStats) int64 { return f.Failures })
	const suspects = "Objects that an earlier process had not flushed and that were verified."
	counter("weir_store_suspects_total", suspects, "intact", func(f disk.FlushStats) int64 { return f.Intact })
	counter("weir_store_suspects_total", suspects, "damaged", func(f disk.FlushStats) int64 { return f.Damaged })
}

// boolGauge returns 1 for true and 0 for false.
func boolGauge(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
