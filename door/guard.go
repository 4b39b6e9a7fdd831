package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
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
// accept any more is closed before its next request: it may be hours old, and its
// authority withdrawn since.
func (d *Door) Guard(next, probes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		switch {
		case !ok: // it came through no listener of the door, as in a test
			next.ServeHTTP(w, r)
		case c.probe.Load():
			probes.ServeHTTP(w, r)
		case !d.admits(c, r.TLS.PeerCertificates):
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// admits reports whether the rules in force accept a connection with the chain of its
// client. They are asked once for each connection and change of the rules.
func (d *Door) admits(c *conn, chain []*x509.Certificate) bool {
	now := d.current.Load()
	if c.admitted.Load() == now {
		return true
	}
	if !now.accept(chain) {
		return false
	}
	c.admitted.Store(now)
	return true
}

// accept reports whether the chain of a client, its own certificate first, is good
// enough, as the handshake decides it.
func (r *rules) accept(chain []*x509.Certificate) bool {
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
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: r.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}
