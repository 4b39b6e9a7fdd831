package app

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/namespace/pulls"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage/download"
)

// engine does the work between a client's request and the store: lookups,
// downloads and background jobs. It runs from the start to the end of a mirror,
// and its limits take effect at the next start.
type engine struct {
	pool      *jobs.Pool
	checks    *jobs.Pool
	ahead     *jobs.Pool // prefetches layers
	warmer    *keepwarm.Warmer
	downloads *download.Group
	cache     *namespace.Cache
	pulls     *pulls.Counter
	traffic   *traffic.Counter
	recent    *traffic.Recent
}

func newEngine(cfg config.Global, parts *storageParts, fleet *fleet, tracer trace.Tracer, fetched func() int64, metrics prometheus.Registerer, id via.ID, logger *slog.Logger) (*engine, error) {
	e := &engine{
		pool: jobs.NewPool(cfg.MaxConcurrentCacheJobs, jobs.NewMetrics(metrics), logger),
		// The namespaces count the checks of tags.
		checks: jobs.NewPool(cfg.MaxConcurrentCacheJobs, nil, logger),
		// A prefetch may wait long for a place, and must not keep jobs that clients began waiting.
		ahead: jobs.NewPool(cfg.MaxConcurrentCacheJobs, nil, logger),
	}
	e.warmer = keepwarm.New(e.pool, keepwarm.NewMetrics(metrics), logger)
	origins := append(parts.bucket.origins(), fleet.origins()...) // the bucket first
	e.downloads = download.NewGroup(download.Options{
		Store:        parts.top,
		Spools:       parts.driver.Spools(),
		Origins:      origins,
		MaxFetches:   cfg.MaxConcurrentFetches,
		MinSpeed:     int64(cfg.MinSpeed),
		OnUnattended: namespace.CompleteOrAbandon(e.pool),
		OnDamaged:    parts.damaged,
		Health:       parts.content,
		Metrics:      download.NewMetrics(metrics),
		Tracer:       tracer,
		Logger:       logger,
	})
	e.cache = namespace.NewCache(namespace.CacheOptions{
		Store: parts.top, Spools: parts.driver.Spools(), Catalog: parts.catalog, Downloads: e.downloads, Origins: origins, Links: parts.bucket.links(),
		Answers: fleet.answers(), Commons: fleet.commons(parts.bucket), Pool: e.pool, Checks: e.checks, Prefetches: e.ahead,
		Content: parts.content, Records: parts.records, OnBrokeOff: parts.brokeOff,
		Logger: logger, ID: id,
	})
	e.pulls = pulls.New(pulls.Options{Records: parts.catalog, Mirror: parts.name, Health: parts.records})
	e.traffic = traffic.New(traffic.Options{Records: parts.catalog, Mirror: parts.name, Fetched: fetched, Health: parts.records})
	e.recent = traffic.NewRecent()
	return e, nil
}

// close ends all work. When it returns, nothing of the engine reads or writes the
// store.
func (e *engine) close() {
	e.pulls.Close(context.Background())
	e.traffic.Close(context.Background())
	// Warming ends first, because it starts downloads. Jobs of the pool wait for
	// downloads, so the pool is closed before them.
	e.warmer.Close()
	if e.cache != nil { // nil if newEngine has failed
		e.cache.Close()
	}
	e.checks.Close()
	e.ahead.Close()
	e.pool.Close()
	e.downloads.Close()
}
