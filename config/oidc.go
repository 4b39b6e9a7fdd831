package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// githubIssuer is the issuer of tokens in GitHub Actions.
const githubIssuer = "https://token.actions.githubusercontent.com"

// OIDC is an OpenID Connect issuer whose tokens identify clients.
type OIDC struct {
	Key                     string        // its name in rules
	Issuer                  string        `toml:"issuer"`                    // as it is in the tokens
	JWKSURI                 string        `toml:"jwks_uri"`                  // empty: it is discovered
	ServerCABundle          string        `toml:"server_ca_bundle"`          // path of a PEM file, added to the system roots
	ClientCertificateBundle string        `toml:"client_certificate_bundle"` // path of a PEM file
	ClientPrivateKey        string        `toml:"client_private_key"`        // path of a PEM file
	BearerTokenFile         string        `toml:"bearer_token_file"`         // path of the token that the issuer wants for its keys
	RequiredAudience        string        `toml:"required_audience"`         // empty: any
	RequiredClaims          []string      `toml:"required_claims"`
	ClockSkewTolerance      time.Duration `toml:"clock_skew_tolerance"`
	AllowedAlgorithms       []string      `toml:"allowed_algorithms"`
	JWKSRefreshInterval     time.Duration `toml:"jwks_refresh_interval"`
	HTTPRequestTimeout      time.Duration `toml:"http_request_timeout_secs"`
	JWKSRefreshTimeout      time.Duration `toml:"jwks_refresh_timeout_secs"` // for a token with an unknown key
}

// TokenService issues tokens to clients that show a password.
type TokenService struct {
	SecretKey Secret        `toml:"secret_key"` // base64
	Realm     string        `toml:"realm"`      // URL of the service; empty: /token of the host that the client asked
	TTL       time.Duration `toml:"ttl_secs"`
}

// Limits of a token service, those of Angos.
const (
	minTokenKey = 32 // bytes
	minTokenTTL = time.Second
	maxTokenTTL = 24 * time.Hour
	// Clients take a token with a shorter life than a minute for one of a minute
	// (distribution-spec tokens, "Token Response Fields").
	leastKeptToken = time.Minute
)

// Key returns the secret that signs tokens.
func (s *TokenService) Key() ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(s.SecretKey.Reveal())
	switch {
	case err != nil:
		return nil, errors.New("must be base64; make one with: openssl rand -base64 32")
	case len(key) < minTokenKey:
		return nil, fmt.Errorf("must have at least %d bytes; make one with: openssl rand -base64 32", minTokenKey)
	}
	return key, nil
}

// oidc decodes the issuers. The key provider of older configurations of Angos named a kind
// of issuer with defaults.
func (d *decoder) oidc(p place, n *node, dst *[]OIDC) {
	issuers, ok := n.value.(table)
	if ok {
		issuers = maps.Clone(issuers)
		for _, name := range slices.Sorted(maps.Keys(issuers)) {
			issuers[name] = d.withoutProvider(p.in(name), issuers[name])
		}
		n = &node{issuers, n.position}
	}
	named(d, p, n, newOIDC, dst)
}

func (d *decoder) withoutProvider(p place, n *node) *node {
	t, ok := n.value.(table)
	if !ok || t["provider"] == nil {
		return n
	}
	older := t["provider"]
	t = maps.Clone(t)
	delete(t, "provider")
	write := "issuer alone"
	switch kind, _ := older.value.(string); kind {
	case "github":
		if t["issuer"] == nil {
			t["issuer"] = &node{githubIssuer, older.position}
		}
		write = fmt.Sprintf("issuer = %q", githubIssuer)
	case "generic":
	default:
		d.fail(p.in("provider"), older, errors.New(`must be "github" or "generic"; provider is an older key, so remove it and set only issuer`))
	}
	d.config.source.positions[p.in("provider").key] = older.position
	d.config.source.older = append(d.config.source.older, olderKey{p.in("provider").key, write})
	return &node{t, n.position}
}

func (d *decoder) tokenService(p place, n *node, dst **TokenService) {
	*dst = newTokenService()
	d.table(p, n, reflect.ValueOf(*dst).Elem())
}

// algorithms returns the algorithms of signatures that can be allowed. Those of a shared
// secret cannot: the public key of an issuer would be the secret.
func algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (v *validator) oidc(at string, o OIDC) {
	v.failed(at+".issuer", checkIssuer(o.Issuer))
	if o.JWKSURI != "" {
		v.failed(at+".jwks_uri", checkEndpoint(o.JWKSURI))
	}
	if strings.HasPrefix(o.Issuer, "https://") && strings.HasPrefix(o.JWKSURI, "http://") {
		v.fail(at+".jwks_uri", "must begin with https://, as issuer does; otherwise an attacker on the network path can replace the keys and forge tokens")
	}
	for _, other := range v.config.Auth.OIDC {
		if other.Key < o.Key && other.Issuer == o.Issuer {
			v.fail(at+".issuer", "is also the issuer of %s", keyIn("auth.oidc", other.Key))
		}
	}
	v.pair(at, "client_certificate_bundle", o.ClientCertificateBundle, "client_private_key", o.ClientPrivateKey)
	if o.ServerCABundle != "" {
		v.failed(at+".server_ca_bundle", checkBundle(o.ServerCABundle))
	}
	if o.BearerTokenFile != "" {
		_, err := readRegular(o.BearerTokenFile)
		v.failed(at+".bearer_token_file", err)
	}
	if len(o.AllowedAlgorithms) == 0 {
		v.fail(at+".allowed_algorithms", "must name at least one, such as \"RS256\"")
	}
	for i, algorithm := range o.AllowedAlgorithms {
		if strings.HasPrefix(algorithm, "HS") || strings.EqualFold(algorithm, "none") {
			v.fail(elementOf(at+".allowed_algorithms", i), "%q would accept tokens that anyone can forge; use one of %s", algorithm, strings.Join(algorithms(), ", "))
			continue
		}
		v.oneOf(elementOf(at+".allowed_algorithms", i), algorithm, algorithms()...)
	}
	for name, seconds := range map[string]time.Duration{
		"jwks_refresh_interval": o.JWKSRefreshInterval, "http_request_timeout_secs": o.HTTPRequestTimeout, "jwks_refresh_timeout_secs": o.JWKSRefreshTimeout,
	} {
		if seconds <= 0 {
			v.fail(at+"."+name, "must be larger than 0")
		}
	}
	if o.ClockSkewTolerance > maxTokenTTL {
		v.fail(at+".clock_skew_tolerance", "must be at most %d seconds", int(maxTokenTTL.Seconds()))
	}
}

func (v *validator) tokenService(s *TokenService) {
	if s == nil {
		return
	}
	const at = "auth.token_service"
	if s.SecretKey == "" {
		v.fail(at+".secret_key", "is missing; make one with: openssl rand -base64 32")
	} else {
		_, err := s.Key()
		v.failed(at+".secret_key", err)
	}
	if s.Realm != "" {
		realm, err := url.Parse(s.Realm)
		if checkEndpoint(s.Realm) != nil || err != nil || !strings.HasSuffix(realm.Path, "/token") || realm.RawQuery != "" || realm.Fragment != "" {
			v.fail(at+".realm", "must be the URL at which clients reach /token here, such as \"https://mirror.example.com/token\"")
		}
	}
	if s.TTL < minTokenTTL || s.TTL > maxTokenTTL {
		v.fail(at+".ttl_secs", "must be between %d and %d", int(minTokenTTL.Seconds()), int(maxTokenTTL.Seconds()))
	}
}

// checkIssuer returns an error unless a text can be the name of an issuer in its tokens.
func checkIssuer(text string) error {
	issuer, isDocument := strings.CutSuffix(text, "/.well-known/openid-configuration")
	if isDocument {
		return fmt.Errorf("is the address of the discovery document; write the issuer as its tokens name it, such as %q", issuer)
	}
	return checkEndpoint(text)
}

// checkEndpoint returns an error unless a text is a URL of http or https with a host, and
// without a password.
func checkEndpoint(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("is missing")
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil:
		return errors.New("must be a URL such as \"https://issuer.example.com\"")
	default:
		return nil
	}
}
