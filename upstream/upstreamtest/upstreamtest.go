// Package upstreamtest is a registry for tests. It answers as real registries do,
// records its requests, and fails as a test's script says.
//
//	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
//	image := r.AddImage("library/nginx", "latest", []byte("a layer"))
//	r.Fault(upstreamtest.Blobs, upstreamtest.CutAfter(3)).Times(1)
//	... // let the code under test pull from r.URL
//	r.Requests() // "GET /v2/library/nginx/manifests/latest 200", ...
//
// A [Registry] is up to three servers, each with a host of its own: the
// registry, its token service (with [WithBearer]) and a CDN for blobs (with
// [WithCDN]). They listen on the loopback interface or on a [Network] in
// memory, for tests in a testing/synctest bubble. The package never sleeps: a
// request that should wait, waits at a [Gate].
package upstreamtest

import (
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry is a fake registry. All methods may be called concurrently.
type Registry struct {
	URL  *url.URL // of the registry
	Host string   // its host:port

	t        testing.TB
	config   config
	certs    *certificates // nil without TLS
	registry *server
	token    *server // nil without Bearer
	cdn      *server // nil without a CDN

	mu           sync.Mutex
	repositories map[string]*repository
	tokens       map[string]grant
	signatures   map[string]time.Time // of CDN URLs, with their expiry
	serial       int
	log          []*Record
	faults       []*Fault
}

// repository is the content of one repository.
type repository struct {
	blobs     map[digest.Digest]content
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type config struct {
	network       *Network
	host          string
	tls           bool
	clientCert    bool
	username      string // Basic
	password      string
	accounts      []Account
	bearer        *Bearer
	cdn           *CDN
	redirectTo    *Registry
	gzip          bool
	noReferrers   bool
	filterIgnored bool
	hidden        int
}

// Option changes the kind of a registry.
type Option func(*config)

// WithTLS makes all servers speak https and HTTP/2, with certificates of the
// authority that [Registry.RootCAs] returns.
func WithTLS() Option { return func(c *config) { c.tls = true } }

// WithClientCertificates makes the registry (not the others) refuse connections
// without a certificate of the same authority. It implies [WithTLS].
func WithClientCertificates() Option { return func(c *config) { c.tls, c.clientCert = true, true } }

// WithNetwork lets the servers listen in memory, on the names host,
// token.host and cdn.host. The host may have a port.
func WithNetwork(n *Network, host string) Option {
	return func(c *config) { c.network, c.host = n, host }
}

// WithBasic makes the registry challenge with Basic.
func WithBasic(username, password string) Option {
	return func(c *config) { c.username, c.password = username, password }
}

// WithAccounts gives the registry several users with rights of their own: with WithBearer
// at its token service, and otherwise by Basic.
func WithAccounts(accounts ...Account) Option {
	return func(c *config) { c.accounts = accounts }
}

// Account is a user of a registry. One without a Username stands for anonymous requests.
type Account struct {
	Username, Password string
	Repositories       []string // that it may read
}

// SetAccounts changes the users and their rights. Tokens that were issued before keep theirs.
func (r *Registry) SetAccounts(accounts ...Account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config.accounts = accounts
}

// WithHiddenContent lets only the root of the API challenge. The answer to any other
// request without an Authorization is status, without a challenge.
func WithHiddenContent(status int) Option { return func(c *config) { c.hidden = status } }

// WithBearer makes the registry challenge with Bearer.
func WithBearer(b Bearer) Option { return func(c *config) { c.bearer = &b } }

// WithCDN makes the registry redirect GETs of blobs to a second host.
func WithCDN(cdn CDN) Option { return func(c *config) { c.cdn = &cdn } }

// WithRedirect makes the registry redirect every request below /v2/ to the same
// path of another registry, as registry.k8s.io does.
func WithRedirect(to *Registry) Option { return func(c *config) { c.redirectTo = to } }

// WithGzip makes the registry compress blobs unless a request asks for the
// identity encoding.
func WithGzip() Option { return func(c *config) { c.gzip = true } }

// WithoutReferrers leaves the referrers API out. [Registry.AddReferrer] then
// keeps the fallback tag.
func WithoutReferrers() Option { return func(c *config) { c.noReferrers = true } }

// WithoutReferrersFilter makes the referrers API ignore artifactType.
func WithoutReferrersFilter() Option { return func(c *config) { c.filterIgnored = true } }

// Bearer describes the tokens of a registry.
type Bearer struct {
	Username, Password string        // wanted by the token service; empty: anyone gets a token
	IdentityToken      string        // in a form, in place of both (OAuth 2.0)
	TTL                time.Duration // 0: 5 min
	OmitExpiry         bool          // neither expires_in nor issued_at in the answer
	AccessTokenOnly    bool          // access_token in place of token, as ACR does
	Forbidden          bool          // 403 without a challenge for a token that is unknown or expired, as ECR does
	OmitScope          bool          // no scope in the challenge
	OnRegistry         bool          // the token service is on the registry's own host
	Realm              string        // in place of the token service's URL
	// Answer makes the body of the token service's answer in place of the usual
	// one; nil: the usual one.
	Answer func(token string, now time.Time) string
}

// CDN describes the second host for blobs. It answers 400 to any request with
// an Authorization header.
type CDN struct {
	TTL        time.Duration // of a redirect's URL, which then answers 403; 0: no end
	OnRegistry bool          // the signed URLs are on the registry's own host, as with MinIO
}

// New starts a registry, which stops with the test.
func New(t testing.TB, options ...Option) *Registry {
	t.Helper()
	r := &Registry{
		t:            t,
		repositories: make(map[string]*repository),
		tokens:       make(map[string]grant),
		signatures:   make(map[string]time.Time),
	}
	for _, option := range options {
		option(&r.config)
	}
	if r.config.tls {
		r.certs = newCertificates(t, r.config.host)
	}
	r.registry = r.start("", http.HandlerFunc(r.serveRegistry), r.config.clientCert)
	r.URL, r.Host = r.registry.url, r.registry.url.Host
	if r.config.bearer != nil && !r.config.bearer.OnRegistry {
		r.token = r.start("token", http.HandlerFunc(r.serveToken), false)
	}
	if r.config.cdn != nil && !r.config.cdn.OnRegistry {
		r.cdn = r.start("cdn", http.HandlerFunc(r.serveCDN), false)
	}
	t.Cleanup(func() {
		r.openGates()
		r.eachServer((*server).stop)
	})
	return r
}

// Close refuses connections from now on, and breaks those that are open.
func (r *Registry) Close() { r.registry.stop() }

// Reopen accepts connections again, on the same address.
func (r *Registry) Reopen() { r.registry.listen() }

// CloseCDN is Close for the CDN.
func (r *Registry) CloseCDN() { r.cdn.stop() }

// ReopenCDN is Reopen for the CDN.
func (r *Registry) ReopenCDN() { r.cdn.listen() }

// CloseToken is Close for the token service.
func (r *Registry) CloseToken() { r.token.stop() }

// TokenURL returns the realm of the registry's challenges.
func (r *Registry) TokenURL() string {
	b := r.config.bearer
	switch {
	case b.Realm != "":
		return b.Realm
	case b.OnRegistry:
		return r.URL.JoinPath("token").String()
	default:
		return r.token.url.JoinPath("token").String()
	}
}

// CDNHost returns the CDN's host:port.
func (r *Registry) CDNHost() string { return r.cdn.url.Host }

func (r *Registry) eachServer(f func(*server)) {
	for _, s := range []*server{r.registry, r.token, r.cdn} {
		if s != nil {
			f(s)
		}
	}
}
