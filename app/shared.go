package app

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"reflect"

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
	dial      dialer
	redis     *sharedRedis // nil: no Redis is configured
	tokens    *tokencache.Cache
	cooldowns *sharedcooldown.Cooldowns
}

// sharedRedis is the client of a configured Redis.
type sharedRedis struct {
	client redis.UniversalClient
	cfg    config.Redis
	files  [sha256.Size]byte // of its certificates, so that a renewed one makes a new client
}

// newShared returns the shared state of one instance alone.
func newShared(metrics prometheus.Registerer, logger *slog.Logger) *shared {
	redis.SetLogger(redisLog{logger})
	return &shared{
		dial:      (&net.Dialer{}).DialContext,
		cooldowns: sharedcooldown.New(sharedcooldown.Options{Logger: logger, Advice: redisAdvice}),
		tokens: tokencache.New(tokencache.NewMemory(tokensInMemory), nil,
			tokencache.WithMetrics(tokencache.NewMetrics(metrics)), tokencache.WithLogger(logger), tokencache.WithAdvice(redisAdvice)),
	}
}

// prepare returns the client of a configuration, or nil if it has no Redis. The
// client that is in use is kept if nothing has changed. It does not wait for Redis,
// and returns an error if a certificate cannot be used.
func (s *shared) prepare(cfg *config.Redis) (*sharedRedis, error) {
	if cfg == nil {
		return nil, nil //nolint:nilnil // no Redis is an answer
	}
	files, err := readTLSFiles(cfg.ClientCertificate, cfg.ClientPrivateKey, cfg.ServerCABundle)
	if err != nil {
		return nil, fmt.Errorf("cache.redis: %w", err)
	}
	if s.redis != nil && s.redis.files == files.sum() && reflect.DeepEqual(s.redis.cfg, *cfg) {
		return s.redis, nil
	}
	client, err := newRedis(cfg, files, s.dial)
	if err != nil {
		return nil, fmt.Errorf("cache.redis: %w", err)
	}
	return &sharedRedis{client, *cfg, files.sum()}, nil
}

// drop closes a prepared client that will not be used.
func (s *shared) drop(next *sharedRedis) {
	if next != nil && next != s.redis {
		next.client.Close()
	}
}

// use shares through a prepared client from now on; nil stands for no Redis. The
// earlier client is closed. No request waits for this.
func (s *shared) use(next *sharedRedis) {
	if next == s.redis {
		return
	}
	last := s.redis
	s.redis = next
	if next == nil {
		s.cooldowns.Use(nil, "", "")
		s.tokens.Share(nil)
	} else {
		prefix, secret := next.cfg.KeyPrefix, next.cfg.SecretKey.Reveal()
		s.cooldowns.Use(next.client, prefix, secret)
		s.tokens.Share(tokencache.NewSealedRedis(next.client, prefix, secret))
	}
	if last != nil {
		last.client.Close()
	}
}

func newRedis(cfg *config.Redis, files tlsFiles, dial dialer) (redis.UniversalClient, error) {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, Username: cfg.Username, Password: cfg.Password.Reveal(), DB: cfg.DB, MasterName: cfg.MasterName,
		SentinelUsername: cfg.SentinelUsername, SentinelPassword: cfg.SentinelPassword.Reveal(),
		// The callers bound each call by its context and ask again by
		// themselves later. A client that retried would only use that time up.
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		DialerRetries:            1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// An account with few rights may not have that of this greeting.
		DisableIdentity: true,
	}
	if cfg.TLS {
		settings, err := files.client()
		if err != nil {
			return nil, err
		}
		// The client's own dialer would finish a TLS handshake whose context has
		// ended.
		dial = (&tls.Dialer{Config: settings}).DialContext
	}
	opts.Dialer = dial.bounded
	return redis.NewUniversalClient(opts), nil
}

func (s *shared) close() {
	s.cooldowns.Close()
	s.tokens.Close()
	if s.redis != nil {
		s.redis.client.Close()
	}
}
