package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/sharedcooldown"
)

const (
	// hotBytes bounds the memory that manifests and other small content take.
	hotBytes = 32 << 20
	// hotObject is the largest content that is kept in memory.
	hotObject = 1 << 20
	// tokensInMemory bounds the upstream tokens that an instance remembers.
	tokensInMemory = 16384
)

// mirror is what a server is made of and what outlives a change of its
// configuration, but for the table, which is swapped.
type mirror struct {
	log       *slog.Logger
	gatherer  *prometheus.Registry
	tracing   *tracing // nil: nothing is traced
	store     *disk.Store
	rotten    prometheus.Counter
	limit     *evict.Store
	pool      *jobs.Pool
	warmer    *keepwarm.Warmer
	flights   *download.Group
	content   *storage.Health
	records   *storage.Health
	cache     *namespace.Cache
	redis     redis.UniversalClient // nil without [cache.redis]
	tokens    *tokencache.Cache
	cooldowns *sharedcooldown.Cooldowns
	clients   *clients
	tables    namespace.Live
	requests  *registry.Metrics
	handler   http.Handler
}

// build makes a mirror. Nothing of it contacts an upstream or waits for Redis.
func build(cfg *config.Config, log *slog.Logger) (*mirror, error) {
	m := &mirror{log: log, gatherer: newGatherer(), tracing: newTracing(cfg.Observability.Tracing, log)}
	m.requests = registry.NewMetrics(m.gatherer)
	if err := m.openStorage(cfg); err != nil {
		m.tracing.close(context.Background())
		return nil, err
	}
	m.openShared(cfg)
	m.clients = newClients(m.tokens, upstream.NewMetrics(m.gatherer), log)
	m.clients.cooldowns = m.cooldowns
	if err := m.apply(cfg); err != nil {
		m.close()
		return nil, err
	}
	m.handler = m.tracing.handler(registry.New(registry.Options{
		Tables:   &m.tables,
		Cache:    m.cache,
		Ready:    m.store.Writable,
		Content:  m.content,
		Metrics:  m.requests,
		Gatherer: m.gatherer,
		Logger:   log,
	}))
	return m, nil
}

// openStorage stacks what content passes through on its way in and out.
func (m *mirror) openStorage(cfg *config.Config) error {
	fs := cfg.BlobStore.FS
	store, err := disk.Open(fs.RootDir, disk.Options{Sync: fs.SyncToDisk, MinFree: int64(fs.MinFree), Logger: m.log})
	if err != nil {
		return err
	}
	m.store = store
	m.content = storage.NewHealth(m.log, "content")
	m.records = storage.NewHealth(m.log, "records of tags and possession")
	m.measureStore(cfg)
	hot := memcache.New(store, hotBytes, hotObject)
	hot.OnCorrupt(m.quarantine)
	m.limit = evict.New(hot, store.Spools(), evict.Options{
		MaxBytes:  int64(fs.MaxSize),
		MinFree:   int64(fs.MinFree),
		Free:      store.Spools().Free,
		MaxUnused: time.Duration(fs.MaxUnused),
		Touch:     store.Touch,
		Metrics:   evict.NewMetrics(m.gatherer),
		Logger:    m.log,
	})
	records := catalog.New(store.Records(), catalog.Options{Logger: m.log})
	m.pool = jobs.NewPool(cfg.Global.MaxConcurrentCacheJobs, jobs.NewMetrics(m.gatherer), m.log)
	m.warmer = keepwarm.New(m.pool, keepwarm.NewMetrics(m.gatherer), m.log)
	m.flights = download.NewGroup(download.Options{
		Store:      m.limit,
		Spools:     store.Spools(),
		MaxFetches: cfg.Global.MaxConcurrentFetches,
		Idle:       namespace.CompleteOrAbandon(m.pool),
		Health:     m.content,
		Metrics:    download.NewMetrics(m.gatherer),
		Tracer:     m.tracing.downloadTracer(),
		Logger:     m.log,
	})
	m.cache, err = namespace.NewCache(namespace.CacheOptions{
		Store: m.limit, Spools: store.Spools(), Catalog: records, Flights: m.flights, Pool: m.pool,
		Content: m.content, Records: m.records,
		Logger: m.log,
	})
	return err
}

// quarantine takes a content out of the store that has become corrupt there.
func (m *mirror) quarantine(ctx context.Context, dgst digest.Digest) error {
	path, err := m.store.Quarantine(ctx, dgst)
	if err == nil {
		m.rotten.Inc()
		m.log.Error("stored content has become corrupt and was quarantined; check the disk, and run weir verify", "digest", dgst, "path", path)
	}
	return err
}

// openShared makes what clients of upstreams have in common: tokens and cooldowns,
// which other instances share through Redis where that is configured.
func (m *mirror) openShared(cfg *config.Config) {
	var shared tokencache.Store
	cooldowns := sharedcooldown.Options{Logger: m.log}
	if r := cfg.Cache.Redis; r != nil {
		opts := &redis.UniversalOptions{
			Addrs: r.Addrs, Username: r.Username, Password: r.Password.Reveal(), DB: r.DB, MasterName: r.MasterName,
			// The token cache bounds each call by its context, and asks again
			// by itself later: a client that retries would only use that up.
			ContextTimeoutEnabled:    true,
			MaxRetries:               -1,
			DialerRetries:            1,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}
		if r.TLS {
			opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		redis.SetLogger(redisLog{m.log})
		m.redis = redis.NewUniversalClient(opts)
		shared = tokencache.NewRedis(m.redis, r.KeyPrefix)
		cooldowns.Redis, cooldowns.Prefix = m.redis, r.KeyPrefix
	}
	m.cooldowns = sharedcooldown.New(cooldowns)
	m.tokens = tokencache.New(tokencache.NewMemory(tokensInMemory), shared,
		tokencache.WithMetrics(tokencache.NewMetrics(m.gatherer)), tokencache.WithLogger(m.log))
}

// apply puts the repositories of a configuration in force. Upstreams that did
// not change keep their connections and what is known about them.
func (m *mirror) apply(cfg *config.Config) (err error) {
	keep := m.clients.begin()
	defer func() {
		if err != nil {
			m.clients.drop(keep)
		}
	}()
	specs := make([]namespace.Spec, len(cfg.Namespaces))
	for i, repo := range cfg.Namespaces {
		spec, err := m.spec(cfg, repo, keep)
		if err != nil {
			return fmt.Errorf("repository.%q: %w", repo.Key, err)
		}
		specs[i] = spec
	}
	table, err := namespace.NewTable(m.cache, specs)
	if err != nil {
		return err
	}
	m.tables.Store(table)
	m.requests.Serve(table)
	m.clients.commit(keep)
	m.warmer.Apply(table.KeepWarm())
	return nil
}

// spec is what a repository block means.
func (m *mirror) spec(cfg *config.Config, repo config.Namespace, keep generation) (namespace.Spec, error) {
	spec := namespace.Spec{
		Key: repo.Key, Host: repo.Host, Default: repo.Default, Offline: repo.Offline,
		ImmutableTags:           repo.ImmutableTags,
		ImmutableTagsExclusions: repo.ImmutableTagsExclusions,
		TagTTL:                  repo.TagTTL.Std(),
		NegativeTTL:             repo.NegativeTTL.Std(),
		MaxStale:                repo.MaxStale.Std(),
		MaxManifest:             int64(cfg.Global.MaxManifestSize),
	}
	for _, name := range repo.ServeStaleOn {
		class, err := upstream.ParseClass(name)
		if err != nil {
			return spec, err
		}
		spec.ServeStaleOn = append(spec.ServeStaleOn, class)
	}
	var members []upstream.Member
	for i, u := range repo.Upstreams {
		client, err := m.clients.get(keep, u, int64(cfg.Global.MaxManifestSize))
		if err != nil {
			return spec, fmt.Errorf("upstream[%d]: %w", i, err)
		}
		members = append(members, client)
		target := u.URL.Std()
		spec.UpstreamHosts = append(spec.UpstreamHosts, target.Host)
		spec.DockerHub = spec.DockerHub || oci.IsDockerHub(target.Hostname())
	}
	spec.Upstreams = upstream.NewChain(upstream.ChainOptions{Logger: m.log}, members...)
	spec.Warm = keptWarm(repo.Warm)
	return spec, nil
}

// close stops what still runs and gives up what is open, in the reverse order
// of use.
func (m *mirror) close() {
	m.warmer.Close()
	if m.cache != nil {
		m.cache.Close() // no lookup writes to the store once that is closed
	}
	m.pool.Close()
	m.flights.Close()
	m.clients.close()
	m.cooldowns.Close()
	m.tokens.Close()
	if m.redis != nil {
		m.redis.Close()
	}
	if err := m.limit.Close(); err != nil {
		m.log.Warn("cannot write down when content was last used; it may be evicted too early", "error", err)
	}
	if err := m.store.Close(); err != nil {
		m.log.Warn("closing the store", "error", err)
	}
	m.tracing.close(context.Background())
}
