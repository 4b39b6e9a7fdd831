package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxIdleConnsPerHost = 64
	idleConnTimeout     = 90 * time.Second
	readBufferSize      = 64 << 10
	pingAfter           = 15 * time.Second // a silent HTTP/2 connection is probed
)

// newTransport returns the HTTP transport for the upstream's own origin, or the
// one without a client certificate for every other host.
func newTransport(o Options, certificate *tls.Certificate) *http.Transport {
	config := &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	proxy := http.ProxyFromEnvironment
	if o.Proxy != nil {
		proxy = http.ProxyURL(o.Proxy)
	}
	dial := o.DialContext
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
			defer cancel()
			return dial(ctx, network, addr)
		},
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   o.ConnectTimeout,
		ResponseHeaderTimeout: o.ReadTimeout,
		DisableCompression:    true, // bodies are addressed by the digest of their bytes as they are
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
		MaxIdleConnsPerHost:   maxIdleConnsPerHost,
		IdleConnTimeout:       idleConnTimeout,
		ReadBufferSize:        readBufferSize,
	}
}

// transportError is a failure below HTTP.
type transportError struct {
	host      string
	connected bool // false: there never was a connection to send the request on
	err       error
}

func (e *transportError) Error() string {
	if !e.connected {
		return fmt.Sprintf("connecting to %s: %v", e.host, e.err)
	}
	return fmt.Sprintf("talking to %s: %v", e.host, e.err)
}

func (e *transportError) Unwrap() error { return e.err }

// connTransport tells a failed connect from a failure on a connection.
type connTransport struct{ base http.RoundTripper }

func (t connTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	var connected atomic.Bool
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		// The reason of our own time limits is the context's cause.
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return nil, &transportError{host: req.URL.Host, connected: connected.Load(), err: err}
	}
	return resp, nil
}

// originTransport is the connTransport of the upstream's own origin. It tells
// the client whether connects succeed and what the answers say about the rate
// limit.
type originTransport struct {
	connTransport
	client *Client
}

func (t originTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.connTransport.RoundTrip(req)
	failure, failed := err.(*transportError)
	cause := context.Cause(req.Context())
	switch {
	case !failed || failure.connected:
		t.client.connected()
	case cause == nil || cause == errHeaderTimeout: // and not: the client went away
		t.client.connectFailed(failure.err)
	}
	if resp != nil {
		t.client.noteRateLimit(resp.Header)
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
