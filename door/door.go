// Package door is the TLS side of the server: the certificate that clients see, and the
// certificates that are asked of them.
//
// A [Door] stands in front of a listener. Strangers wait in a hall for their handshakes,
// which are bounded (hall.go). The door's [Settings] can change at any time: new
// connections get the new ones, and connections that exist are checked once more
// (guard.go). A certificate comes from a [Source]: from files ([Fixed]), from the server
// itself ([SelfSigned]), or from an authority.
//
// Each handshake asks for one of three things by ALPN (RFC 7301): HTTP, the answer to a
// challenge of an authority (RFC 8737), or the [Probe] of this machine's own health
// check. Only HTTP has the settings' certificate and asks for that of the client.
package door

import (
	"crypto/tls"
	"crypto/x509"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// Probe is the application protocol that a health check asks for, and nothing else. The
// handshake then has no certificates that prove anything, so that a mirror can be asked
// whether it is alive while it has no certificate yet, and by a program without a
// client's. [Door.Guard] answers nothing else on such a connection. It speaks HTTP/1.1:
// no protocol is agreed on, since http.Server closes connections of protocols that it
// does not know.
const Probe = "weir-probe"

// challenge is the application protocol in which an authority asks for its proof
// (RFC 8737, section 4).
const challenge = "acme-tls/1"

// Source returns certificates. It is called by several goroutines.
type Source interface {
	// Certificate returns the certificate for a handshake, or the reason that there is
	// none.
	Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	// Served returns the certificates that clients see at the moment.
	Served() []Served
}

// Served is a certificate that clients see.
type Served struct {
	Host         string    // the first name in it
	Begins, Ends time.Time // zero: there is no certificate for Host yet
}

// Settings are the properties of a door that can change while it is open.
type Settings struct {
	Source        Source
	ClientCAs     *x509.CertPool // nil: no client is asked for a certificate
	RequireClient bool           // refuse clients without a certificate
	HTTP2         bool           // offer it besides HTTP/1.1
}

// Door is the TLS side of a listener.
type Door struct {
	current atomic.Pointer[rules]
	probe   *tls.Config
	config  *tls.Config // of all handshakes, until they say what they are for

	hall                       *hall
	completed, failed, refused atomic.Int64 // handshakes
}

// rules are settings in force.
type rules struct {
	Settings
	http      *tls.Config
	challenge *tls.Config
}

// New returns a door.
func New(s Settings) (*Door, error) {
	own, err := ephemeral()
	if err != nil {
		return nil, err
	}
	d := &Door{probe: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, SessionTicketsDisabled: true,
	}, hall: newHall(runtime.GOMAXPROCS(0))}
	d.config = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: d.configFor}
	d.Set(s)
	return d, nil
}

// Set puts settings in force for handshakes from now on, and for the next request on
// each open connection.
func (d *Door) Set(s Settings) {
	r := &rules{Settings: s}
	r.http = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: s.Source.Certificate,
		// Bodies are long, and headers are read whole: small first records would only be
		// more system calls.
		DynamicRecordSizingDisabled: true,
	}
	if s.HTTP2 {
		r.http.NextProtos = []string{"h2", "http/1.1"}
	}
	r.challenge = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{challenge}, GetCertificate: s.Source.Certificate, SessionTicketsDisabled: true}
	switch {
	case s.ClientCAs == nil:
	case s.RequireClient:
		r.http.ClientAuth, r.http.ClientCAs = tls.RequireAndVerifyClientCert, s.ClientCAs
	default:
		r.http.ClientAuth, r.http.ClientCAs = tls.VerifyClientCertIfGiven, s.ClientCAs
	}
	d.current.Store(r)
}

// configFor returns the configuration of one handshake. Protocols that need no client
// certificate are honoured only if the client asks for nothing else.
func (d *Door) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	switch r := d.current.Load(); {
	case slices.Equal(hello.SupportedProtos, []string{Probe}):
		if marked, ok := hello.Conn.(*conn); ok {
			marked.probe.Store(true)
		}
		return d.probe, nil
	case slices.Equal(hello.SupportedProtos, []string{challenge}):
		return r.challenge, nil
	default:
		return r.http, nil
	}
}

// Handshakes returns how many handshakes have been completed, have failed, and had to
// make room for others.
func (d *Door) Handshakes() (completed, failed, refused int64) {
	return d.completed.Load(), d.failed.Load(), d.refused.Load()
}

// Served returns the certificates that clients see at the moment.
func (d *Door) Served() []Served { return d.current.Load().Source.Served() }
