package app

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/ondemand"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/upstream"
)

// mirror is a server without its listener. Its parts differ in how long they last:
// storage and engine from start to end, shared as well but perhaps beyond this
// instance, and routing until the next change of the configuration.
type mirror struct {
	logger   *slog.Logger
	gatherer *prometheus.Registry
	tracing  *tracing // nil: nothing is traced
	storage  *storageParts
	shared   *shared
	engine   *engine
	fleet    *fleet // nil: the mirror works alone
	routing  *routing
	state    *state
	api      *api.Handler
	warmings *ondemand.Runner // for operators
	grants   access.Grants
	entrance *entrance // nil: plain HTTP
	handler  http.Handler
	admin    http.Handler // of operators, at an address of their own; nil: there is none
}

// build makes the mirror of a validated configuration. It contacts no upstream and
// does not wait for Redis.
func build(cfg *config.Config, logger *slog.Logger) (_ *mirror, err error) {
	m := &mirror{logger: logger, gatherer: newGatherer()}
	// Tracing comes first, since downloads and requests get their tracers at once.
	m.tracing = newTracing(cfg.Observability.Tracing, logger)
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.storage, err = openStorage(cfg, m.gatherer, logger); err != nil {
		return nil, err
	}
	m.shared = newShared(m.gatherer, logger)
	if m.fleet, err = openFleet(cfg, m.storage, m.gatherer, logger); err != nil {
		return nil, err
	}
	id, upstreams := via.NewID(), upstream.NewMetrics(m.gatherer)
	if m.engine, err = newEngine(cfg.Global, m.storage, m.fleet, m.tracing.downloadTracer(), upstreams.Fetched, m.gatherer, id, logger); err != nil {
		return nil, err
	}
	m.fleet.serve(m.engine.downloads)
	m.routing = &routing{
		clients:  newClients(m.shared.tokens, m.shared.cooldowns, upstreams, id, logger),
		engine:   m.engine,
		store:    m.storage.store,
		requests: registry.NewMetrics(m.gatherer),
		guarding: access.NewMetrics(m.gatherer),
		issuers:  issuers{logger: logger},
	}
	m.entrance = newEntrance(cfg, m.storage, m.gatherer, logger)
	namespace.RegisterMetrics(m.gatherer, &m.routing.tables)
	if err = m.apply(cfg); err != nil {
		return nil, err
	}
	m.state = newState(m, cfg.BlobStore.FS)
	m.warmings = ondemand.New(ondemand.Options{Open: openToWarm(&m.routing.tables), Logger: logger, Metrics: ondemand.NewMetrics(m.gatherer)})
	m.api = newAPI(cfg.Global, m, logger)
	ops := &ops{
		ready: m.storage.driver.Writable, content: m.storage.content, bucket: m.storage.bucket.trouble, gatherer: m.gatherer,
		page: newPage(m.routing.keys), proxies: &m.routing.proxies, access: &m.routing.access, logger: logger,
		apart: cfg.Server.AdminAddress != "", api: m.api,
	}
	ops.browsers = m.newBrowsers(m.api)
	pulls := m.newRegistry(cfg, id)
	operations := ops.handler()
	if ops.apart {
		m.admin = m.entrance.guard(ops.adminHandler(pulls), probesOnly(operations))
	}
	m.handler = m.entrance.guard(mount(pulls, operations), probesOnly(operations))
	return m, nil
}

// newRegistry returns the handler of pulls.
func (m *mirror) newRegistry(cfg *config.Config, id via.ID) http.Handler {
	return m.tracing.handler(registry.New(registry.Options{
		Tables:  &m.routing.tables,
		Cache:   m.engine.cache,
		Access:  &m.routing.access,
		Explain: explain,
		ID:      id,
		Proxies: &m.routing.proxies,
		Tokens:  tokenService{&m.routing.access, &m.routing.proxies}.serve,
		Grants:  &m.grants,
		Pulls:   m.engine.pulls,
		Traffic: m.engine.traffic,
		Recent:  m.engine.recent,
		Metrics: m.routing.requests,
		Logger:  m.logger,

		Redirects: redirectedClients(cfg),
	}))
}

// apply puts the parts of a configuration in force that a running mirror can change,
// or changes nothing and returns an error.
func (m *mirror) apply(cfg *config.Config) error {
	secret, err := grantSecret(cfg)
	if err != nil {
		return err
	}
	redis, err := m.shared.prepare(cfg.Cache.Redis)
	if err != nil {
		return err
	}
	settings, err := m.entrance.prepare(cfg.Server.TLS)
	if err == nil {
		err = m.routing.apply(cfg)
	}
	if err == nil {
		err = m.grants.Use(secret) // only a secret fails that cannot be valid
	}
	if err != nil {
		m.shared.drop(redis)
		m.entrance.drop(settings)
		return err
	}
	m.fleet.use(redis) // before the last client is closed
	m.storage.bucket.limit(cfg)
	m.storage.bucket.share(redis)
	m.shared.use(redis)
	m.entrance.share(redis, cfg)
	return m.entrance.use(settings)
}

// close ends the parts that exist, in the reverse order of use.
func (m *mirror) close() {
	if m.api != nil {
		m.api.Close()
	}
	if m.warmings != nil {
		m.warmings.Close() // it reads from the engine
	}
	m.entrance.close() // it writes to the store
	if m.engine != nil {
		m.engine.close()
	}
	if m.routing != nil {
		m.routing.close()
	}
	m.fleet.close()
	if m.storage != nil {
		m.storage.bucket.stopEvicting() // it gives a lease in Redis back
	}
	if m.shared != nil {
		m.shared.close()
	}
	if m.storage != nil {
		m.storage.close()
	}
	m.tracing.close(context.Background())
}
