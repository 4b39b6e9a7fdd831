package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/shortage"
	"github.com/weirhq/weir/oci"
)

const (
	// maxIdleConnsPerHost covers the parallel layers of many pulls, which would
	// otherwise repeat TLS handshakes.
	maxIdleConnsPerHost = 64
	// idleConnTimeout is that of http.DefaultTransport.
	idleConnTimeout = 90 * time.Second
	// readBufferSize holds a record of TLS. A body is read past it, with the larger buffer of
	// the reader: it costs no system calls, and each connection of a slow upstream has one.
	readBufferSize = 16 << 10
	// maxHeaderBytes bounds the header of an answer. Go's own limit is 10 MiB, and each
	// request may hold that much. Signed URLs and challenges have a few KiB.
	maxHeaderBytes = 64 << 10
	// pingAfter is when a silent HTTP/2 connection is pinged. All requests to a
	// host share it, so a dead one has to go before they time out.
	pingAfter = 15 * time.Second
)

// newTransport returns an HTTP transport. A nil proxy means none, also none of the
// environment. Nil protocols are HTTP/1.1 and HTTP/2.
func newTransport(o Options, protocols *http.Protocols, certificate *tls.Certificate, proxy proxyFunc, dial dialFunc) *http.Transport {
	config := &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	return &http.Transport{
		Proxy:                 proxy,
		DialContext:           dial,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   o.ConnectTimeout,
		ResponseHeaderTimeout: o.ReadTimeout,
		DisableCompression:    true, // a digest is that of the bytes as the registry sends them
		ForceAttemptHTTP2:     true,
		Protocols:             protocols,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
		MaxIdleConnsPerHost:   maxIdleConnsPerHost,
		IdleConnTimeout:       idleConnTimeout,
		ReadBufferSize:        readBufferSize,
		// It holds for HTTP/2 too (SETTINGS_MAX_HEADER_LIST_SIZE, RFC 9113 section 6.5.2).
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}

// transportError is a failure below HTTP.
type transportError struct {
	host      string
	connected bool // false: there was no connection to send the request on
	err       error
}

func (e *transportError) Error() string {
	if !e.connected {
		return fmt.Sprintf("connecting to %s: %v", e.host, e.err)
	}
	return fmt.Sprintf("talking to %s: %v", e.host, e.err)
}

func (e *transportError) Unwrap() error { return e.err }

// connTransport distinguishes a failed connect from a failure on a connection.
type connTransport struct{ base *connections }

func (t connTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, _, err := t.roundTrip(req)
	return resp, err
}

// roundTrip also returns the address that the answer came from.
func (t connTransport) roundTrip(req *http.Request) (*http.Response, net.Addr, error) {
	answer := t.base.send(req)
	if err := answer.err; err != nil {
		if _, ok := err.(*CrowdedError); ok {
			return nil, nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: err}
		}
		// The context's cause names Weir's own time limit, if that ended it.
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return nil, nil, &transportError{host: req.URL.Host, connected: answer.connected, err: err}
	}
	return answer.resp, answer.from, nil
}

// originTransport is the connTransport of the upstream's own origin. It informs
// the client of each connect's outcome and of the rate limit in each answer, and notes
// the zone that the answer came from. A request that waited without success, while none got an
// answer, counts as a failed connect: the registry hangs. A registry that answers other
// requests meanwhile is only slow with this one.
type originTransport struct {
	connTransport
	client *Client
}

func (t originTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	answers := t.client.answers.Load()
	resp, from, err := t.roundTrip(req)
	if _, ok := err.(*Error); ok {
		return nil, err // no request was sent
	}
	failure, failed := err.(*transportError)
	if failed && t.client.routes.guarded {
		failure.redact()
	}
	cause := context.Cause(req.Context())
	if !failed {
		t.client.answers.Add(1)
	}
	// A client that left, or its own time limit, says nothing about the registry.
	ours := cause == nil || cause == errHeaderTimeout
	switch {
	// The registry may bear no further connection for one blob. Other requests find out
	// whether it is unavailable.
	case failed && oci.IsSegment(req.Context()):
	case failed && failure.connected && ours && isTimeout(failure.err) && t.client.answers.Load() == answers:
		t.client.connectFailed(failure.err)
	case !failed || failure.connected:
		t.client.connected()
	// This machine lacks something, which says nothing about the upstream.
	case shortage.Of(failure.err) != nil:
		t.client.noteShortage(failure)
	case ours:
		t.client.connectFailed(failure.err)
	}
	if resp != nil {
		t.client.noteRateLimit(resp.Header)
		t.client.noteZone(resp, from)
	}
	return resp, err
}

// sameOrigin reports whether two URLs have the same scheme, host and port: the
// only place where credentials and client certificates go.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	switch port := u.Port(); {
	case port != "":
		return port
	case strings.EqualFold(u.Scheme, "https"):
		return "443"
	default:
		return "80"
	}
}
