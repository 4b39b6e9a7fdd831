package app

import (
	"crypto/tls"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream/sharedcooldown"
)

// tokensInMemory bounds the number of upstream tokens that an instance keeps. A
// token is for one repository of one upstream, and takes a few KiB.
const tokensInMemory = 16384

// shared is the state that all clients of upstreams have in common. With Redis, they
// also share it with other instances.
type shared struct {
	redis     redis.UniversalClient // nil: no Redis is configured
	tokens    *tokencache.Cache
	cooldowns *sharedcooldown.Cooldowns
}

// openShared opens the shared state. It does not wait for Redis. A nil cfg stands
// for no Redis.
func openShared(cfg *config.Redis, metrics prometheus.Registerer, logger *slog.Logger) *shared {
	s := &shared{}
	var tokens tokencache.Store
	cooldowns := sharedcooldown.Options{Logger: logger, Advice: redisAdvice}
	if cfg != nil {
		s.redis = newRedis(cfg, logger)
		tokens = tokencache.NewRedis(s.redis, cfg.KeyPrefix)
		cooldowns.Redis, cooldowns.Prefix = s.redis, cfg.KeyPrefix
	}
	s.cooldowns = sharedcooldown.New(cooldowns)
	s.tokens = tokencache.New(tokencache.NewMemory(tokensInMemory), tokens,
		tokencache.WithMetrics(tokencache.NewMetrics(metrics)), tokencache.WithLogger(logger), tokencache.WithAdvice(redisAdvice))
	return s
}

func newRedis(cfg *config.Redis, logger *slog.Logger) redis.UniversalClient {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, Username: cfg.Username, Password: cfg.Password.Reveal(), DB: cfg.DB, MasterName: cfg.MasterName,
		// The callers bound each call by its context and ask again by
		// themselves later. A client that retried would only use that time up.
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		DialerRetries:            1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if cfg.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	redis.SetLogger(redisLog{logger})
	return redis.NewUniversalClient(opts)
}

func (s *shared) close() {
	s.cooldowns.Close()
	s.tokens.Close()
	if s.redis != nil {
		s.redis.Close()
	}
}
