package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/internal/zone"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
)

// The operations, as errors and metrics name them.
const (
	opManifest  = "manifest"
	opBlob      = "blob"
	opTags      = "tags"
	opReferrers = "referrers"
	opToken     = "token"
)

const (
	defaultConnectTimeout  = 10 * time.Second
	defaultReadTimeout     = 60 * time.Second
	defaultMaxManifestSize = 5 << 20
	defaultTokens          = 1024

	// maxTries of one request, with jittered pauses that begin with firstWait: a
	// registry's hiccup is over by then, or a client's own retry is due.
	maxTries  = 3
	firstWait = 100 * time.Millisecond
)

// Options configure a [Client]. Only URL is required.
type Options struct {
	// URL of the registry: http or https, and a host. Its path goes before
	// every repository name.
	URL *url.URL
	// APIPath is the path of the registry's API before /v2/, without a slash at
	// its end. It is empty for most registries. Artifactory and Nexus have many
	// registries on one host, each below a path.
	APIPath            string
	Username, Password string
	// Helper gives the username and the password in place of those two; nil: none does.
	Helper *credhelper.Helper
	// Certificate is the client certificate. Only the URL's own origin is
	// ever offered it, never the target of a redirect elsewhere.
	Certificate *tls.Certificate
	RootCAs     *x509.CertPool // nil: the system's

	MaxRedirects   int           // 0: redirects are errors
	ConnectTimeout time.Duration // for a connection and again for TLS; 0: 10 s
	ReadTimeout    time.Duration // for the headers, and between two reads of a body; 0: 60 s
	Proxy          *url.URL      // nil: the environment's
	// TokenRealm is the only host that gets the credentials besides the registry's own,
	// with or without a port. It is empty if the registry may name any.
	TokenRealm string
	// AllowPrivateRedirects admits redirects and realms that lead to private and
	// loopback addresses although the registry itself has none.
	AllowPrivateRedirects bool
	// Reach is where the registry itself may be.
	Reach Reach
	// DialContext connects in place of a net.Dialer. It is for tests.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	MaxManifestSize int64             // bytes; 0: 5 MiB
	MaxBlobSize     int64             // bytes; 0: no limit
	Segments        int               // streams that may bring one large blob at once; 0: 1
	MaxBandwidth    int64             // bytes per second; 0: no limit
	Bandwidth       *Bandwidth        // of all clients together; nil: no limit
	MaxConnections  int               // requests at once, to the registry and through its proxy; 0: no limit
	Tokens          *tokencache.Cache // nil: one of its own
	Cooldowns       Cooldowns         // nil: other clients' 429s stay unknown
	Metrics         *Metrics          // may be nil
	Logger          *slog.Logger      // may be nil
	// OnDenied is called, every few minutes at most, when the registry or its token
	// service refuses the credentials or the client certificate. It may be nil.
	OnDenied  func(*Error)
	UserAgent string
	ID        via.ID // of this process, in requests; "": none
}

// Client reads one registry. It holds the registry's cooldown, so a registry
// should have one Client, however many chains ask it. All methods may be called
// concurrently.
type Client struct {
	url             *url.URL
	root            string // path of the API, "/v2/" for most registries
	host            string // as the URL has it, for logs and error messages
	label           string // host:port, for metrics
	login           *login
	certificate     bool   // a client certificate is configured
	tokenRealm      string // lower case
	maxRedirects    int
	connectTimeout  time.Duration
	readTimeout     time.Duration
	maxManifestSize int64
	maxBlobSize     int64 // 0: no limit
	userAgent       string
	id              via.ID
	metrics         *upstreamMetrics // may be nil
	tally           tally
	logger          *slog.Logger

	routes *routes
	// Segments of one blob have a connection each. Those of HTTP/2 would share one.
	segmentRoutes *routes
	segments      *segments
	limit         *connectionLimit // nil: there is none
	bandwidth     [2]*Bandwidth    // its own, and that of all clients

	auth        *authorizer
	cooldown    *registryCooldown
	beside      *besideHosts
	unreachable *episode.Episode // for the log
	corrupt     *episode.Episode // likewise
	cooldowns   Cooldowns        // may be nil
	heard       hearing          // from cooldowns
	rejected    *recent[digest.Digest]
	named       *recent[named] // by HEADs of tags
	readings    *lru.Cache[digest.Digest, reading]
	answers     atomic.Int64        // of the registry itself, so far
	noMirror    atomic.Bool         // the last answer came from no other mirror
	listed      *recent[listedRepo] // repositories of which the registry lists referrers
	pages       pages               // of lists of tags
	rateLow     atomic.Bool         // the rate limit is nearly used up, and that was logged
	onDenied    func(*Error)        // may be nil
	deniedAt    atomic.Int64        // Unix time in nanoseconds of its last call
	closing     context.Context     // ends with Close
	lacking     *episode.Episode    // of a resource of this machine, for the log
	close       context.CancelFunc

	manifestHead, blobHead headSupport
}

var _ oci.Registry = (*Client)(nil)

// NewClient returns a client of the registry at o.URL. The caller closes it.
func NewClient(o Options) *Client {
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, defaultConnectTimeout)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, defaultReadTimeout)
	c := &Client{
		url:             o.URL,
		root:            o.APIPath + "/v2/",
		host:            strings.ToLower(o.URL.Host),
		label:           strings.ToLower(net.JoinHostPort(o.URL.Hostname(), portOf(o.URL))),
		login:           newLogin(o),
		certificate:     o.Certificate != nil,
		tokenRealm:      strings.ToLower(o.TokenRealm),
		maxRedirects:    o.MaxRedirects,
		connectTimeout:  o.ConnectTimeout,
		readTimeout:     o.ReadTimeout,
		maxManifestSize: cmp.Or(o.MaxManifestSize, defaultMaxManifestSize),
		maxBlobSize:     o.MaxBlobSize,
		userAgent:       o.UserAgent,
		bandwidth:       [2]*Bandwidth{NewBandwidth(o.MaxBandwidth), o.Bandwidth},
		id:              o.ID,
		logger:          loggerOr(o.Logger),
		cooldowns:       o.Cooldowns,
		onDenied:        o.OnDenied,
		heard:           hearing{stops: make(map[place]func())},
		rejected:        newRecent[digest.Digest](maxRejections, rejectionTime),
		named:           newRecent[named](maxNamed, namedTime),
		listed:          newRecent[listedRepo](maxListed, listedTime),
		pages:           newPages(),
		cooldown:        newRegistryCooldown(),
		beside:          newBesideHosts(),
	}
	readings, err := lru.New[digest.Digest, reading](maxReadings)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	c.readings = readings
	c.unreachable = episode.New(reachableAfter, func() { c.logger.Info("the upstream is reachable again", "upstream", c.host) })
	c.corrupt = episode.New(soundAfter, func() {
		c.logger.Info("the upstream has delivered no corrupt content for some time", "upstream", c.host, "for", soundAfter)
	})
	c.lacking = episode.New(reachableAfter, func() { c.logger.Info("connections to the upstream can be opened again", "upstream", c.host) })
	c.closing, c.close = context.WithCancel(context.Background())
	c.makeRoutes(o)
	tokens := o.Tokens
	if tokens == nil {
		tokens = tokencache.New(tokencache.NewMemory(defaultTokens), nil, tokencache.WithLogger(c.logger))
	}
	c.auth = newAuthorizer(tokens, &tokenService{client: c})
	c.metrics = o.Metrics.add(c)
	if c.limit != nil {
		c.limit.waited = c.metrics.waitedForConnection
	}
	// Last, since a known limit calls the client at once.
	for _, op := range []operation{ofManifests, ofBlobs, ofLists} {
		c.hearOf(place{operation: op})
	}
	return c
}

// makeRoutes makes the connections of a client that is new, with their limit.
func (c *Client) makeRoutes(o Options) {
	c.limit = newConnectionLimit(o.MaxConnections, c.host, c.logger)
	c.routes = newRoutes(o, nil, c.limit)
	single := new(http.Protocols)
	single.SetHTTP1(true)
	c.segmentRoutes = newRoutes(o, single, c.limit)
	c.segments = &segments{most: max(1, o.Segments), host: c.host, logger: c.logger}
	if o.MaxConnections > 0 { // further streams would get no connection
		c.segments.most = min(c.segments.most, o.MaxConnections)
	}
}

func loggerOr(logger *slog.Logger) *slog.Logger {
	if logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return logger
}

// Host returns the registry's host, with the port if its URL has one: its name
// in messages.
func (c *Client) Host() string { return c.host }

// MayBeMirror reports whether the registry may be another mirror: its last answer says
// so, or there was none yet.
func (c *Client) MayBeMirror() bool { return !c.noMirror.Load() }

// Close closes idle connections. Requests that are under way continue.
func (c *Client) Close() {
	c.close()
	for _, stop := range c.heard.end() {
		stop()
	}
	c.metrics.remove(c)
	c.routes.closeIdle()
	c.segmentRoutes.closeIdle()
}

// call is one request in terms of the distribution API.
type call struct {
	op, method      string
	limit           operation // whose limit the request counts against
	repo, reference string    // reference names the content in errors
	path            string    // below the repository's
	query           url.Values
	header          http.Header
	observe         func(*http.Response) // called with each answer, redirects included; may be nil
	sender          *login               // of the request; nil: the configured ones
}

// do sends a call to the registry and returns an answer of 200 or 206, whose
// body fails if it stalls. It returns an *Error, or ctx's error.
func (c *Client) do(ctx context.Context, call call) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	call.sender = c.loginOf(ctx)
	leave, refused := c.cooldown.enter(time.Now(), place{operation: call.limit, client: call.sender.client}, oci.IsContinuation(ctx))
	if refused != nil {
		return nil, c.identify(refused, call)
	}
	defer leave()
	// A timer and not a context's deadline, which would bound the body too.
	attempts, cancel := context.WithCancelCause(ctx)
	timer := newHeaderTimer(c.timeToHeaders(), func() { cancel(errHeaderTimeout) })
	asking := attempts
	if c.limit != nil {
		block, _ := ctx.Value(blockKey{}).(string)
		asking = context.WithValue(attempts, visitKey{}, &visit{block: block, blob: call.limit == ofBlobs && call.method == http.MethodGet, timer: timer})
	}
	resp, span, err := c.doWithRetry(asking, call)
	timer.timer.Stop()
	if err != nil {
		cancel(nil)
		if ctx.Err() != nil {
			return nil, ctx.Err() // the caller left: no failure of the registry
		}
		return nil, err
	}
	resp.Body = newStream(attempts, cancel, resp.Body, c.readTimeout, c.metrics.received, span, throttle{limits: c.bandwidth, blob: call.limit == ofBlobs, waited: c.metrics.throttled})
	return resp, nil
}

// timeToHeaders bounds a call up to the headers of its answer: all tries,
// redirects and tokens together.
func (c *Client) timeToHeaders() time.Duration { return c.connectTimeout + c.readTimeout }

// doWithRetry sends a call, and again if the failure may be over in an instant. It
// starts no try after the read timeout. The span is that of the answered try, and
// ends with the answer's body.
func (c *Client) doWithRetry(ctx context.Context, call call) (*http.Response, trace.Span, error) {
	start := time.Now()
	for try := 1; ; try++ {
		asked := time.Now()
		visit := visitOf(ctx)
		visit.waited = 0
		traced, span := c.startTry(ctx, call, try)
		resp, failure := c.attempt(traced, call)
		// The caller left, which counts neither as an answer nor as a failure. Our
		// own time limit is a failure like any other.
		if cause := context.Cause(ctx); cause != nil && cause != errHeaderTimeout {
			if failure == nil {
				resp.Body.Close()
			}
			noteBroken(span, cause)
			span.End()
			return nil, nil, cause
		}
		if failure == nil {
			c.countRequest(call.op, ClassOK, time.Since(asked)-visit.waited)
			noteAnswer(span, resp.StatusCode, ClassOK)
			return resp, span, nil
		}
		endFailed(span, failure)
		c.countRequest(call.op, failure.Class, time.Since(asked)-visit.waited)
		if failure.Loop() {
			via.NoteLoop(ctx)
		}
		wait := backoff(firstWait, try)
		if try == maxTries || !retryable(failure) || time.Since(start)+wait >= c.readTimeout {
			return nil, nil, failure
		}
		reportSetback(ctx, failure)
		if !sleep(ctx, wait) {
			return nil, nil, failure
		}
	}
}

func (c *Client) countRequest(op string, class Class, took time.Duration) {
	c.metrics.request(op, class, took)
	c.tally.request(class, took)
}

// retryable reports whether the same request may succeed in a moment: if a
// connection broke, or a proxy before the registry lost its backend.
func retryable(failure *Error) bool {
	if failure.RetryAfter > 0 {
		return false // the registry said when
	}
	switch failure.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	// A failed connect counts for the circuit breaker, and a timeout has cost
	// enough time already.
	broken, ok := errors.AsType[*transportError](failure.Err)
	return ok && broken.connected && !isTimeout(broken)
}

// backoff returns the pause after a try: first after try 1, twice as long after
// each further one, and random between half and the whole of that.
func backoff(first time.Duration, try int) time.Duration {
	whole := first << (try - 1)
	return whole/2 + rand.N(whole/2)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt sends a call a single time, with redirects and authentication.
func (c *Client) attempt(ctx context.Context, call call) (*http.Response, *Error) {
	name := c.repository(call.repo)
	target := url.URL{Scheme: c.url.Scheme, Host: c.url.Host, Path: c.root + name + call.path, RawQuery: call.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, call.method, target.String(), nil)
	if err != nil {
		return nil, c.identify(&Error{Class: ClassUnavailable, Err: err}, call)
	}
	for key, values := range call.header {
		req.Header[key] = values
	}
	c.setCommonHeaders(req)
	mirror := false
	var from zone.Zone // of the registry; before it answered, nothing is asked but itself
	resp, err := followRedirects(req, c.maxRedirects, func(req *http.Request) (*http.Response, error) {
		if refused := c.besideAdmitted(req, call); refused != nil {
			return nil, refused
		}
		resp, err := c.sendBeside(req, c.placeOf(req.Context(), req.URL, call.limit), c.authenticated(ctx, req.URL, name, from).RoundTrip)
		if err == nil {
			from = zoneOf(resp, from)
			mirror = mirror || via.IsMirror(resp.Header)
			if call.observe != nil {
				call.observe(resp)
			}
		}
		return resp, err
	})
	if err == nil {
		c.noMirror.Store(!mirror)
	}
	var failure *Error
	switch {
	case err != nil:
		failure = c.identify(asError(err), call)
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent:
		return resp, nil
	default:
		refused := c.refusal(resp)
		// A limit that segments have met is none of single streams, which meet their own.
		if refused.Class == ClassRateLimited && !oci.IsSegment(ctx) {
			p := c.placeOf(ctx, resp.Request.URL, call.limit)
			c.limited(p, refused.RetryAfter)
		}
		failure = c.identify(refused, call)
	}
	if !oci.IsSegment(ctx) {
		c.noteDenied(failure, call)
	}
	return nil, failure
}

// besideAdmitted returns the refusal of a request to a host that the registry
// redirects to, if that host cools down. For the registry itself, do has asked.
func (c *Client) besideAdmitted(req *http.Request, call call) *Error {
	p := c.placeOf(req.Context(), req.URL, call.limit)
	if p.host == "" || oci.IsContinuation(req.Context()) {
		return nil
	}
	refused := c.admitted(p)
	if refused != nil {
		refused.Err = &redirectedError{host: req.URL.Host}
	}
	return refused
}

// repository returns the name by which the upstream knows a repository.
func (c *Client) repository(repo string) string {
	return path.Join(strings.Trim(c.url.Path, "/"), repo)
}

func (c *Client) setCommonHeaders(req *http.Request) {
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.userAgent) // if empty, Go sends none
	c.id.Mark(req.Context(), req.Header)
}

// authenticated returns the transport to a target for requests about a repository.
// Only the upstream's own API gets credentials. Any other target that challenges
// gets an anonymous token, and none that was for the API. The zone is that of the
// registry, if it has answered before.
func (c *Client) authenticated(ctx context.Context, target *url.URL, repository string, from zone.Zone) *authTransport {
	t := &authTransport{authorizer: c.auth, base: c.transport(c.routesOf(ctx), target, from), origin: target, api: c.isAPI(target), repository: repository, scope: repository, from: from, login: &login{}}
	if c.ownAPI(target) {
		t.login = c.loginOf(ctx)
	} else if name := repositoryIn(target.Path); name != "" {
		t.scope = name // registry.k8s.io, for example, redirects to a repository of another name
	}
	return t
}

// repositoryIn returns the name of the repository in a path of the API, or "".
func repositoryIn(path string) string {
	name, ok := strings.CutPrefix(path, "/v2/")
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/list", "/referrers/"} {
		if at := strings.LastIndex(name, kind); ok && at > 0 && oci.ValidName(name[:at]) {
			return name[:at]
		}
	}
	return ""
}

// ownAPI reports whether a URL is one of the upstream's own API. Other paths of the
// same host are not: a storage service there has signed URLs, and refuses them if
// an Authorization comes along. The APIs of other registries on that host are not
// either: their owners must not get the credentials.
func (c *Client) ownAPI(u *url.URL) bool { return sameOrigin(u, c.url) && isBelow(u, c.root) }

// isAPI reports whether a URL is one of the upstream's own API, or of the API of a
// registry on another host.
func (c *Client) isAPI(u *url.URL) bool {
	return c.ownAPI(u) || !sameOrigin(u, c.url) && isBelow(u, "/v2/")
}

// transport returns the transport to an origin, without authentication, for a registry
// that answered from a zone.
func (c *Client) transport(r *routes, target *url.URL, from zone.Zone) http.RoundTripper {
	switch {
	case !sameOrigin(target, c.url):
		return r.to(target, from)
	case r.refused != nil:
		return refusingTransport{r.refused}
	}
	return originTransport{connTransport{r.origin}, c}
}

// routesOf returns the connections for a call.
func (c *Client) routesOf(ctx context.Context) *routes {
	if oci.IsSegment(ctx) {
		return c.segmentRoutes
	}
	return c.routes
}

// ownTransport is the transport to the registry itself, without authentication.
func (c *Client) ownTransport() http.RoundTripper { return c.transport(c.routes, c.url, zone.Public) }

// identify returns the error with the host and the content of its request.
func (c *Client) identify(e *Error, call call) *Error {
	identified := *e // a copy: all callers that wait for one token share its failure
	identified.Host, identified.Repository, identified.Reference = c.host, c.repository(call.repo), call.reference
	identified.Op = cmp.Or(e.Op, call.op)
	sender := cmp.Or(call.sender, c.login)
	identified.Credentials, identified.root, identified.OnBehalf = sender.set(), c.root, sender.client != ""
	identified.Message = sender.hide(e.Message)
	return &identified
}

// asError returns err as a failure of the upstream: an *Error as it is, and any
// other error as unavailable.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: ClassUnavailable, Err: err}
}

// noteRateLimit exports the rate limit that an answer states, and logs once when
// less than a tenth remains.
func (c *Client) noteRateLimit(header http.Header) {
	limit, remaining, ok := parseRateLimit(header)
	if !ok {
		return
	}
	c.metrics.rateLimit(limit, remaining)
	c.tally.limit.Store(&rateLimit{limit, remaining})
	low := remaining*10 < limit
	if c.rateLow.Swap(low) != low && low {
		c.logger.Warn("the upstream's rate limit is nearly used up. Configure credentials for it, or check tags less often", "upstream", c.host, "remaining", remaining, "limit", limit)
	}
}
