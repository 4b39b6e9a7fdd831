package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/redistest"
)

// sharing is the shared state of one instance, with its log.
type sharing struct {
	*shared
	log *testutil.LogBuffer
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	s := &sharing{log: new(testutil.LogBuffer)}
	s.shared = newShared(prometheus.NewRegistry(), newLogger(s.log, "json", slog.LevelInfo))
	t.Cleanup(s.close)
	return s
}

// configure puts the table [cache.redis] of a configuration in force.
func (s *sharing) configure(t *testing.T, table string) {
	t.Helper()
	next, err := s.prepare(redisConfig(t, table))
	if err != nil {
		t.Fatal(err)
	}
	s.use(next)
}

func redisConfig(t *testing.T, table string) *config.Redis {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.toml")
	if err := os.WriteFile(path, []byte("[cache.redis]\n"+table), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err == nil {
		err = cfg.ValidateAway()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Cache.Redis
}

// token asks for a token, and returns its value. An instance that acquires one gets
// the name.
func (s *sharing) token(t *testing.T, scope, name string) string {
	t.Helper()
	token, err := s.tokens.Token(t.Context(), tokencache.Key{Registry: "https://registry.test", Scope: scope}, func(context.Context) (tokencache.Token, error) {
		return tokencache.Token{Value: name, Issued: time.Now(), Expires: time.Now().Add(time.Hour)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return token.Value
}

func waitFor(t *testing.T, label string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not yet: %s", label)
		}
	}
}

// The warning that Redis fails names the key of the configuration and the remedy.
func TestRedisAdvice(t *testing.T) {
	authority, other := redistest.NewAuthority(t), redistest.NewAuthority(t)
	certificate, key := authority.Issue("client", time.Now().AddDate(1, 0, 0))
	foreign, foreignKey := other.Issue("client", time.Now().AddDate(1, 0, 0))
	plain := redistest.Start(t)
	secret := redistest.Start(t, "--requirepass", "secret", "--user", "reader", "on", ">secret", "~*", "&*", "+@read", "+@connection", "+@pubsub")
	encrypted := redistest.Start(t, authority.TLS()...)
	replica := redistest.Start(t, "--replicaof", strings.ReplaceAll(plain.Addr(), ":", " "))
	full := redistest.Start(t, "--maxmemory", "1")
	old := redistest.NewAuthority(t)
	settings := old.TLS()
	old.Issue("server", time.Now().Add(-time.Hour))
	expired := redistest.Start(t, settings...)
	member := redistest.Start(t, "--cluster-enabled", "yes", "--cluster-port", port(t, testutil.FreeAddr(t)))
	sentinel := redistest.StartSentinel(t, secret, "--requirepass", "sentinel's", "--sentinel", "auth-pass "+redistest.Group+" secret")
	open := redistest.StartSentinel(t, plain)
	encryptedSentinel := redistest.StartSentinel(t, encrypted, authority.TLS()...)

	bundle := func(a *redistest.Authority) string { return fmt.Sprintf("\nserver_ca_bundle = %q", a.File()) }
	pair := func(certificate, key string) string {
		return fmt.Sprintf("\nclient_certificate = %q\nclient_private_key = %q", certificate, key)
	}
	const group = "?master_name=" + redistest.Group + `"`
	for _, tt := range []struct{ name, table, want string }{
		{"authority unknown", `url = "rediss://` + encrypted.Addr() + `"` + pair(certificate, key), "Set cache.redis.server_ca_bundle to the authority"},
		{"wrong authority", `url = "rediss://` + encrypted.Addr() + `"` + pair(certificate, key) + bundle(other), "Set cache.redis.server_ca_bundle to the authority"},
		{"authority unknown, of a Sentinel", `url = "rediss://` + encryptedSentinel.Addr() + group + pair(certificate, key), "Set cache.redis.server_ca_bundle to the authority"},
		{"no client certificate", `url = "rediss://` + encrypted.Addr() + `"` + bundle(authority), "cache.redis.client_certificate and cache.redis.client_private_key"},
		{"client certificate of another authority", `url = "rediss://` + encrypted.Addr() + `"` + bundle(authority) + pair(foreign, foreignKey), "cache.redis.client_certificate and cache.redis.client_private_key"},
		{"no client certificate for a Sentinel", `url = "rediss://` + encryptedSentinel.Addr() + group + bundle(authority), "cache.redis.client_certificate and cache.redis.client_private_key"},
		{"expired", `url = "rediss://` + expired.Addr() + `"` + bundle(old), "Renew the certificate of Redis"},
		{"TLS to a plain port", `url = "rediss://` + plain.Addr() + `"`, "A port without TLS does not answer"},
		{"plain to a port with TLS", `url = "redis://` + encrypted.Addr() + `"`, "needs rediss:// in cache.redis.url"},
		{"wrong password", `url = "redis://:wrong@` + secret.Addr() + `"`, "Correct the user and the password in cache.redis.url"},
		{"unknown user", `url = "redis://stranger:secret@` + secret.Addr() + `"`, "Correct the user and the password in cache.redis.url"},
		{"no password", `url = "redis://` + secret.Addr() + `"`, "Write the user and the password into cache.redis.url"},
		{"rights are missing", `url = "redis://reader:secret@` + secret.Addr() + `"`, "Grant the user the rights in docs/operations.md"},
		{"wrong password of a Sentinel", `url = "redis://:secret@` + sentinel.Addr() + group + "\nsentinel_password = \"wrong\"", "cache.redis.sentinel_username and cache.redis.sentinel_password"},
		{"no password of a Sentinel", `url = "redis://:secret@` + sentinel.Addr() + group, "set cache.redis.sentinel_password"},
		{"group that the Sentinel does not know", `url = "redis://` + open.Addr() + `?master_name=other"`, "Correct master_name in cache.redis.url"},
		{"replica", `url = "redis://` + replica.Addr() + `"`, "That server is a replica"},
		{"full", `url = "redis://` + full.Addr() + `"`, "Set maxmemory-policy allkeys-lru"},
		{"cluster without keys", `url = "redis://` + member.Addr() + `"`, "redis-cli --cluster check"},
		{"servers of no cluster", `url = "redis://` + plain.Addr() + "," + plain.Addr() + `"`, "are not a cluster"},
		{"no server", `url = "redis://` + testutil.FreeAddr(t) + `"`, "Check that Redis is running, reachable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSharing(t)
			s.configure(t, tt.table)
			s.token(t, tt.name, "mine") // a Redis that fails fails no call
			s.cooldowns.Limit("registry.test:443", tt.name, "manifest", time.Now().Add(time.Minute))
			// On a busy machine one of the two warnings may have a time limit as its
			// cause.
			deadline := time.Now().Add(time.Minute)
			for s.log.Count("WARN", tt.want) == 0 {
				if time.Now().After(deadline) {
					t.Fatalf("want %q in\n%s", tt.want, s.log)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, found := strings.Cut(addr, ":")
	if !found {
		t.Fatal(addr)
	}
	return port
}

// A change of [cache.redis] takes effect without a restart and without a word about a
// failure. Tokens stay in memory.
func TestRedisReload(t *testing.T) {
	authority := redistest.NewAuthority(t)
	certificate, key := authority.Issue("client", time.Now().AddDate(1, 0, 0))
	plain, encrypted := redistest.Start(t), redistest.Start(t, authority.TLS()...)
	first := `url = "redis://` + plain.Addr() + `"`
	second := fmt.Sprintf("url = \"rediss://%s\"\nserver_ca_bundle = %q\nclient_certificate = %q\nclient_private_key = %q\n",
		encrypted.Addr(), authority.File(), certificate, key)

	one, two := newSharing(t), newSharing(t)
	told := make(chan time.Time, 100)
	t.Cleanup(two.cooldowns.Subscribe("registry.test:443", "", "manifest", func(until time.Time) { told <- until }))
	expect := func(label, scope, want string) {
		t.Helper()
		waitFor(t, label, func() bool {
			// Redis may not be connected yet, so each try has a scope of its own.
			scope += "."
			one.token(t, scope, "one")
			return two.token(t, scope, "two") == want
		})
	}
	both := func(table string) {
		t.Helper()
		one.configure(t, table)
		two.configure(t, table)
	}
	expect("alone", "alone", "two")
	both(first)
	expect("shared", "first", "one")
	kept := one.redis
	both(first)
	if one.redis != kept {
		t.Error("a configuration without a change made a new client")
	}
	both(second)
	expect("shared through another Redis", "second", "one")
	if two.token(t, "alone.", "new") != "two" {
		t.Error("a token in memory was lost")
	}
	one.cooldowns.Limit("registry.test:443", "", "manifest", time.Now().Add(time.Minute))
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("a cooldown does not reach the other instance through the new Redis")
	}
	authority.Issue("client", time.Now().AddDate(1, 0, 0)) // the same file, renewed
	kept = one.redis
	both(second)
	if one.redis == kept {
		t.Error("a renewed certificate has no effect")
	}
	expect("with a renewed certificate", "renewed", "one")
	if s, err := one.prepare(&config.Redis{TLS: true, ServerCABundle: key}); err == nil {
		t.Errorf("a bundle without certificates is accepted: %v", s)
	}
	one.configure(t, first)
	two.use(nil)
	expect("no longer shared", "last", "two")
	for line := range strings.Lines(one.log.String() + two.log.String()) {
		failed := strings.Contains(line, "WARN") || strings.Contains(line, "ERROR")
		// On a busy machine an exchange with Redis may take too long at any time.
		slow := strings.Contains(line, os.ErrDeadlineExceeded.Error()) || strings.Contains(line, context.DeadlineExceeded.Error())
		if failed && !slow {
			t.Errorf("the log: %s", line)
		}
	}
}
