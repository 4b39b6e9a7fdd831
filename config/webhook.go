package config

import (
	"fmt"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/hosts"
)

// Webhook is a service that is asked whether a request is allowed.
type Webhook struct {
	Key               string
	URL               URL           `toml:"url"`
	TimeoutMS         int           `toml:"timeout_ms"`
	BearerToken       Secret        `toml:"bearer_token"`
	BasicAuth         BasicAuth     `toml:"basic_auth"`
	ClientCertificate string        `toml:"client_certificate_bundle"` // path of a PEM file
	ClientPrivateKey  string        `toml:"client_private_key"`        // path of a PEM file
	ServerCABundle    string        `toml:"server_ca_bundle"`          // path of a PEM file, added to the system roots
	ForwardHeaders    []string      `toml:"forward_headers"`           // of the client's request
	CacheTTL          time.Duration `toml:"cache_ttl"`                 // whole seconds; 0: no answer is kept
}

// BasicAuth are the credentials of Weir at a service.
type BasicAuth struct {
	Username string `toml:"username"`
	Password Secret `toml:"password"`
}

func newWebhook(key string) Webhook {
	return Webhook{Key: key, TimeoutMS: 1000, CacheTTL: time.Minute, ForwardHeaders: []string{}}
}

func (v *validator) webhook(at string, w Webhook) {
	if w.URL == (URL{}) {
		v.fail(at+".url", `is missing; write one like "https://auth.example.com/authorize"`)
	}
	const longest = 60_000 // clients have given up by then
	if w.TimeoutMS < 1 || w.TimeoutMS > longest {
		v.fail(at+".timeout_ms", "must be between 1 and %d", longest)
	}
	v.together(at+".basic_auth", "username", w.BasicAuth.Username, "password", w.BasicAuth.Password.Reveal())
	if w.BearerToken != "" && w.BasicAuth.Username != "" {
		v.fail(at+".bearer_token", "and basic_auth cannot both be set; remove one of them")
	}
	v.pair(at, "client_certificate_bundle", w.ClientCertificate, "client_private_key", w.ClientPrivateKey)
	if w.ServerCABundle != "" {
		v.failed(at+".server_ca_bundle", checkBundle(w.ServerCABundle))
	}
	for i, name := range w.ForwardHeaders {
		if err := access.CheckForwardedHeader(name); err != nil {
			v.failed(elementOf(at+".forward_headers", i), fmt.Errorf("%q %w", name, err))
		}
	}
	v.notNegative(at+".cache_ttl", int64(w.CacheTTL))
}

// plainWebhooks returns the key paths of the webhooks on other machines that are asked
// without TLS: their answers can be forged on the way.
func (c *Config) plainWebhooks() []string {
	var keys []string
	for _, w := range c.Auth.Webhooks {
		if w.URL.Std().Scheme == "http" && !hosts.Loopback(w.URL.Std().Hostname()) {
			keys = append(keys, keyIn("auth.webhook", w.Key))
		}
	}
	return keys
}
