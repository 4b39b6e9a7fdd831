package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/cooldown"
	"github.com/weirhq/weir/internal/episode"
)

const (
	// reachTime is how long a replica may say nothing at all to a request. Replicas are in
	// one network.
	reachTime = time.Second
	// maxPeers and maxPeerBytes bound the replicas whose failures are remembered.
	maxPeers     = 256
	maxPeerBytes = 256 << 10
	// maxHeader bounds the header of an answer. It has some 300 bytes.
	maxHeader = 8 << 10
	// maxFailures is how many requests in a row fail before a replica is passed over. Two
	// may meet one restart.
	maxFailures = 3
	// shunTime is how long a replica is passed over after wrong bytes or silence.
	shunTime = time.Minute
	// patience is how many times the life of a lease a replica may deliver nothing while it
	// renews its lease: its upstream may be as slow.
	patience = 3
	// maxWords bounds how often a replica says that it lives before it answers: it does so
	// once in each beat, for as long as it is waited for.
	maxWords = 256
)

// Reasons for which a replica is not read, for the advice of operators.
var (
	ErrUnreachable = errors.New("cluster: the replica did not answer within a second")
	ErrRefused     = errors.New("cluster: the replica refuses the request")
	ErrSecret      = errors.New("cluster: the seal was not made with this replica's secret")
	ErrClock       = errors.New("cluster: the clocks of the two replicas differ by more than a minute")
	ErrForeign     = errors.New("cluster: the answer does not come from a replica")
	ErrVersion     = errors.New("cluster: the replica speaks another version")
	ErrTwin        = errors.New("cluster: two replicas have the same address")
	ErrScheme      = errors.New("cluster: one of the two replicas has a certificate, and the other one has none")
)

var (
	errBusy    = errors.New("cluster: the replica already serves its maximum number of requests")
	errShunned = errors.New("cluster: the replica failed recently and is skipped")
	errSilent  = errors.New("cluster: the replica delivers nothing")
	errCorrupt = errors.New("cluster: the bytes of the replica do not match their digest")
)

// peers are the other replicas, as this one sees them.
type peers struct {
	cluster   *Cluster
	transport *http.Transport

	mu      sync.Mutex
	known   *bounded.LRU[string, *peer]      // by URL
	shunned *bounded.LRU[atBlock, time.Time] // until when a replica is passed over
}

// peer is the health of one replica.
type peer struct {
	breaker cooldown.Breaker
	trouble *episode.Episode
}

// atBlock is a replica, as a source of the blobs of one block. Wrong bytes and silence may
// be those of the block's upstream, which the replica passes on. So an upstream that lies or
// hangs keeps the replicas apart for its own block alone.
type atBlock struct{ url, block string }

func newPeers(c *Cluster) *peers {
	return &peers{
		cluster: c,
		transport: &http.Transport{
			// No proxy: replicas are near. No HTTP/2: one slow stream must not slow down others.
			Proxy:                  nil,
			DialContext:            (&net.Dialer{Timeout: reachTime}).DialContext,
			TLSClientConfig:        clientTLS(c.opts.TLS),
			TLSHandshakeTimeout:    reachTime,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
		},
		known:   bounded.NewLRU(maxPeers, maxPeerBytes, func(url string, _ *peer) int { return len(url) }),
		shunned: bounded.NewLRU(maxPeers, maxPeerBytes, func(at atBlock, _ time.Time) int { return len(at.url) + len(at.block) }),
	}
}

// clientTLS returns the settings of a client from those of the server.
func clientTLS(settings *tls.Config) *tls.Config {
	if settings == nil {
		return nil
	}
	settings = settings.Clone()
	if certificate := settings.GetCertificate; certificate != nil {
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(nil) }
	}
	return settings
}

func (p *peers) close() { p.transport.CloseIdleConnections() }

// open asks a replica for a blob. If held is a lease, the content is the download of its
// holder, else a stored one.
func (p *peers) open(ctx context.Context, at string, want Want, held named) (*Stream, error) {
	if !p.allow(at, want.Block) {
		return nil, errShunned
	}
	ctx, cancel := context.WithCancelCause(ctx)
	answer, err := p.ask(ctx, cancel, at, request{digest: want.Digest, block: want.Block, offset: want.Offset, stored: held.value == ""})
	if err != nil {
		p.concluded(ctx, at, err) // before its context ends: else the caller would seem to have left
		cancel(err)
		if errors.Is(err, errSilent) {
			p.shun(at, want.Block, err)
		}
		return nil, err
	}
	size, ok := parsePlace(answer.Header.Get(placeHeader), want.Offset)
	if !ok || answer.StatusCode != http.StatusPartialContent {
		answer.Body.Close()
		cancel(ErrForeign)
		p.concluded(ctx, at, ErrForeign)
		return nil, ErrForeign
	}
	p.concluded(ctx, at, nil)
	linkTo(ctx, trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(answer.Header))))
	f := &following{peers: p, at: at, block: want.Block, held: held, body: answer.Body, ctx: ctx, cancel: cancel, left: -1, closed: make(chan struct{})}
	if size >= 0 {
		f.left = size - want.Offset
	}
	go f.watch()
	host := at
	if u, err := url.Parse(at); err == nil {
		host = u.Host
	}
	return &Stream{ReadCloser: f, Size: size, Host: host, Reject: func() { p.shun(at, want.Block, errCorrupt) }}, nil
}

// ask sends a request and waits for the header of its answer. A replica that awaits its
// upstream says so, and gets more time.
func (p *peers) ask(ctx context.Context, cancel context.CancelCauseFunc, at string, r request) (*http.Response, error) {
	// With certificates, nothing is sent to a host that shows none. Values of Redis may have no
	// seal then.
	if encrypted := p.cluster.opts.TLS != nil; strings.HasPrefix(at, "https://") != encrypted {
		return nil, ErrScheme
	}
	lease := p.cluster.opts.Lease
	silence := time.AfterFunc(reachTime, func() { cancel(ErrUnreachable) })
	defer silence.Stop()
	all := time.AfterFunc(patience*lease, func() { cancel(errSilent) })
	defer all.Stop()
	words := 0
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if words++; words > maxWords {
				return ErrForeign
			}
			silence.Reset(lease)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(traced, http.MethodGet, at+r.path(), nil)
	if err != nil {
		return nil, err
	}
	p.cluster.signer.sign(req.Header, r, time.Now())
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	answer, err := p.transport.RoundTrip(req) // it follows no redirect
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("cluster: asking a replica: %w", err)
	}
	if err := verdict(answer); err != nil {
		answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// verdict returns the error that an answer stands for.
func verdict(answer *http.Response) error {
	spoken := answer.Header.Get(versionHeader)
	switch {
	case spoken == "":
		return ErrForeign
	case spoken != strconv.Itoa(version):
		return ErrVersion
	}
	switch answer.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return nil
	case http.StatusNotFound:
		return ErrNotHere
	case http.StatusServiceUnavailable:
		return errBusy
	case http.StatusForbidden:
		return ErrClock
	case http.StatusUnauthorized:
		return ErrRefused
	default:
		return ErrForeign
	}
}

// name asks a replica for the name of its process.
func (p *peers) name(ctx context.Context, at string) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer, err := p.ask(ctx, cancel, at, request{})
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	return answer.Header.Get(idHeader), nil
}

// of returns the health of a replica. The caller holds the mutex.
func (p *peers) of(at string) *peer {
	known, ok := p.known.Get(at)
	if !ok {
		known = &peer{
			breaker: cooldown.New(cooldown.Options{Threshold: maxFailures, Pause: 5 * time.Second, MaxPause: time.Minute}),
			trouble: episode.New(10*time.Second, func() { p.cluster.opts.Logger.Info("a replica is used again", "replica", at) }),
		}
		p.known.Add(at, known)
	}
	return known
}

func (p *peers) allow(at, block string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if until, shunned := p.shunned.Get(atBlock{at, block}); shunned && now.Before(until) {
		return false
	}
	allowed, _ := p.of(at).breaker.Allow(now)
	return allowed
}

// concluded notes how a request ended. The context is that of the request.
func (p *peers) concluded(ctx context.Context, at string, err error) {
	own := errors.Is(err, ErrUnreachable) || errors.Is(err, ErrForeign)
	p.mu.Lock()
	known := p.of(at)
	trouble := known.trouble
	switch {
	case err == nil, errors.Is(err, ErrNotHere), errors.Is(err, errBusy), errors.Is(err, errSilent):
		known.breaker.Success()
		p.mu.Unlock()
		trouble.Good()
		return
	case ctx.Err() != nil && !own: // the download has ended
		known.breaker.Abandon()
		p.mu.Unlock()
		return
	}
	known.breaker.Failure(time.Now())
	p.mu.Unlock()
	if trouble.Bad() {
		p.cluster.warn("a replica cannot be read. This one downloads the content itself", "replica", at, err)
	}
}

// shun passes a replica over for a while, as a source of one block.
func (p *peers) shun(at, block string, why error) {
	p.mu.Lock()
	known := p.of(at)
	p.shunned.Add(atBlock{at, block}, time.Now().Add(shunTime))
	p.mu.Unlock()
	if known.trouble.Bad() {
		p.cluster.opts.Logger.Warn("a replica is skipped for a while", "replica", at, "block", block, "for", shunTime, "error", why)
	}
}

// following is the body of an answer of a replica.
type following struct {
	peers  *peers
	at     string
	block  string
	held   named // the lease that it follows; its value is empty for a stored blob
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	left   int64 // bytes that are to come; -1 if that is not known
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	since  time.Time     // of the Read that waits now; zero if none does
	waited time.Duration // in earlier Reads, since the last look of watch
	bytes  int64         // since then
}

func (f *following) Read(p []byte) (int, error) {
	// A holder sends the last byte once all are verified.
	if f.left == 0 {
		return 0, io.EOF
	}
	f.mu.Lock()
	f.since = time.Now()
	f.mu.Unlock()
	if f.left > 0 {
		p = p[:min(int64(len(p)), f.left)]
	}
	n, err := f.body.Read(p)
	f.mu.Lock()
	f.waited += time.Since(f.since)
	f.since = time.Time{}
	f.bytes += int64(n)
	f.mu.Unlock()
	f.peers.cluster.opts.Metrics.moved(received, int64(n))
	if f.left > 0 {
		f.left -= int64(n)
	}
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF && f.left > 0:
		return n, io.ErrUnexpectedEOF
	case err == io.EOF:
		return n, io.EOF
	case context.Cause(f.ctx) != nil:
		return n, context.Cause(f.ctx)
	default:
		return n, fmt.Errorf("cluster: reading from a replica: %w", err)
	}
}

func (f *following) Close() error {
	f.once.Do(func() { close(f.closed) })
	f.cancel(nil)
	return f.body.Close()
}

// watch ends the body if the replica delivers nothing, until the body is closed.
func (f *following) watch() {
	lease := f.peers.cluster.opts.Lease
	tick := time.NewTicker(lease / 3)
	defer tick.Stop()
	idle := time.Duration(0)
	for {
		select {
		case <-f.closed:
			return
		case <-tick.C:
		}
		if !f.starved(lease / 3) {
			idle = 0
			continue
		}
		idle += lease / 3
		if f.leaves(idle, lease) {
			f.cancel(errSilent)
			return
		}
	}
}

// minRate is how many bytes a second count as a delivery.
const minRate = 1 << 10

// starved reports whether the last interval was spent waiting for next to no bytes. Time in
// which nothing was read is not the replica's fault.
func (f *following) starved(interval time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	waited, bytes := f.waited, f.bytes
	if !f.since.IsZero() {
		waited += min(time.Since(f.since), interval)
	}
	f.waited, f.bytes = 0, 0
	return waited >= interval*8/10 && bytes < int64(interval.Seconds()*minRate)
}

// leaves reports whether a replica that has delivered nothing for some time is left.
func (f *following) leaves(idle, lease time.Duration) bool {
	if f.held.value == "" { // a stored blob needs no upstream
		if idle >= lease {
			f.peers.shun(f.at, f.block, errSilent)
		}
		return idle >= lease
	}
	still, err := f.peers.cluster.stillHolds(f.ctx, f.held)
	switch {
	case err != nil: // Redis does not say
		return idle >= lease
	case !still: // it died, or hangs
		return true
	case idle >= patience*lease:
		f.peers.shun(f.at, f.block, errSilent)
		return true
	default: // it lives, and its upstream may be slow
		return false
	}
}
