package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"time"
)

type connKey struct{}

// ConnContext gives the requests of a connection what [Door.Guard] remembers of it. It is
// a hook of http.Server.
func (d *Door) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// Guard returns a handler in front of two others. Requests on connections of a [Probe] are
// answered by probes. A connection whose client certificate the rules in force do not
// accept any more, or which has expired, ends before its next request: it may be hours old,
// and its authority withdrawn since. Requests under way on it end as they began.
func (d *Door) Guard(next, probes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		switch {
		case !ok: // it came through no listener of the door, as in a test
			next.ServeHTTP(w, r)
		case c.probe.Load():
			probes.ServeHTTP(w, r)
		case !d.admits(c, r.TLS.PeerCertificates, time.Now()):
			endConnection(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// endConnection has the client make a new connection. HTTP/1.1 closes the old one at
// once. On one of HTTP/2 a closed stream would leave it open, with all later requests
// refused, so it gets the answer that sends a client to another connection (RFC 9110,
// section 15.5.20), and a GOAWAY.
func endConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor < 2 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusMisdirectedRequest)
}

// admits reports whether the rules in force accept a connection with the chain of its
// client. They are asked once for each connection and change of the rules, and again when
// a certificate of the chain ends.
func (d *Door) admits(c *conn, chain []*x509.Certificate, now time.Time) bool {
	current := d.current.Load()
	if c.admitted.Load() == current && !slices.ContainsFunc(chain, func(of *x509.Certificate) bool { return now.After(of.NotAfter) }) {
		return true
	}
	if !current.accept(chain, now) {
		return false
	}
	c.admitted.Store(current)
	return true
}

// accept reports whether the chain of a client, its own certificate first, is good
// enough, as the handshake decides it.
func (r *rules) accept(chain []*x509.Certificate, now time.Time) bool {
	if r.ClientCAs == nil {
		// A certificate that was accepted under earlier rules proves nothing now.
		return len(chain) == 0
	}
	if len(chain) == 0 {
		return !r.RequireClient
	}
	between := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: r.ClientCAs, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}
