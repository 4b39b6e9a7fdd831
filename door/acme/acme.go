// Package acme gets the certificates of a door from an authority (RFC 8555), and renews
// them. The protocol is that of caddyserver/certmagic; this package gives it the records
// of a store to keep keys and certificates in (storage.go), which machines can share by a
// secret (shared.go), locks between processes (lock.go), and DNS servers for its challenges
// (dns.go, rfc2136.go, acmedns.go, hook.go).
//
// [Manager] is the [door.Source]. It works in the background: as long as there is no
// certificate, handshakes fail, and the log says why.
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
	"go.uber.org/zap"

	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/storage"
)

// Challenge is the way in which a host is proven to the authority.
type Challenge int

const (
	TLSALPN Challenge = iota // a handshake on port 443 (RFC 8737)
	HTTP                     // a request to port 80 (RFC 8555, section 8.3)
	DNS                      // a TXT record (RFC 8555, section 8.4)
)

// advice returns what an authority needs for the proof of a host.
func (c Challenge) advice() string {
	const begin = "Check that the authority's directory can be reached from this machine, that its certificate is trusted, and that "
	switch c {
	case HTTP:
		return begin + "port 80 of the host leads to this listener for http-01"
	case DNS:
		return begin + "the TXT record can be added and is visible in the public DNS"
	default:
		return begin + "port 443 of the host leads to this mirror without another TLS endpoint in between"
	}
}

// renewCheck is how often certificates are looked at. The look costs nothing, and some
// authorities issue them for an hour.
const renewCheck = time.Minute

// startRetry is the pause between two attempts to listen for the challenge HTTP. One costs
// nothing.
const startRetry = time.Second

// obtainTimeout bounds one attempt to get a certificate.
const obtainTimeout = 5 * time.Minute

// Options are the settings of a Manager.
type Options struct {
	Hosts     []string // at least one
	Email     string
	Directory string         // URL of the authority
	Roots     *x509.CertPool // that prove the authority's own server; nil: those of the system
	Challenge Challenge
	DNS       Records // for the challenge DNS
	// Key of an account that the authority knows already (RFC 8555, section 7.3.4);
	// empty: none.
	KeyID, HMACKey string

	HTTPAddress string // where the listener of the challenge HTTP listens

	Store  storage.Records
	Locks  Locker
	Logger *slog.Logger
	// RenewCheck is the pause between two looks at certificates; 0: a minute.
	RenewCheck time.Duration
}

// Manager has the certificates of an authority. Close must be called at the end.
type Manager struct {
	opts   Options
	config *certmagic.Config
	cache  *certmagic.Cache
	issuer *certmagic.ACMEIssuer
	asked  map[string]bool // names that the authority may ask for a proof of
	logger *slog.Logger

	ctx       context.Context
	cancel    context.CancelFunc
	server    *http.Server // nil: no challenge HTTP
	listening bool         // for it
	ended     sync.WaitGroup
}

// ErrNone says that there is no certificate yet.
var ErrNone = errors.New("there is no certificate from the authority yet")

// New returns a manager that has the certificates in the store. It asks no authority
// before it is started.
func New(opts Options) *Manager {
	m := &Manager{opts: opts, asked: make(map[string]bool), logger: opts.Logger}
	for _, host := range opts.Hosts {
		m.asked[host] = true
		if reversed, err := dns.ReverseAddr(host); err == nil { // RFC 8738, section 6
			m.asked[strings.TrimSuffix(reversed, ".")] = true
		}
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	logger := zap.New(core{handler: opts.Logger.Handler()})
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		RenewCheckInterval: cmp.Or(opts.RenewCheck, renewCheck), Logger: logger,
	})
	m.config = certmagic.New(m.cache, certmagic.Config{
		Storage: records{Locker: opts.Locks, records: opts.Store}, Logger: logger, OnEvent: m.event,
		// A client that asks for another name gets to know which names there are.
		DefaultServerName: opts.Hosts[0], FallbackServerName: opts.Hosts[0],
		// Authorities end OCSP, and clients of registries do not ask for it.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	m.issuer = certmagic.NewACMEIssuer(m.config, account(opts, logger))
	m.config.Issuers = []certmagic.Issuer{m.issuer}
	if opts.Challenge == HTTP {
		const short = 10 * time.Second // such a request has one packet
		m.server = &http.Server{
			Handler: m.proofs(), ReadHeaderTimeout: short, ReadTimeout: short, WriteTimeout: short, IdleTimeout: short,
			MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(m.logger.Handler(), slog.LevelDebug),
		}
	}
	m.load()
	return m
}

// Start gets the missing certificates in the background, and renews all. The address is
// that of the door's listener, which must be open. It returns an error if it cannot listen
// for the challenge HTTP.
func (m *Manager) Start(address net.Addr) error {
	switch m.opts.Challenge {
	case TLSALPN:
		// The issuer finds the port in use, and leaves the answer to the door.
		m.issuer.ListenHost, m.issuer.AltTLSALPNPort = splitAddress(address.String())
	case HTTP:
		if err := m.listen(); err != nil {
			return err
		}
	case DNS:
	}
	return m.config.ManageAsync(m.ctx, m.opts.Hosts)
}

// StartLater starts a manager in the background whose Start has failed, as soon as it can.
func (m *Manager) StartLater(address net.Addr) {
	m.ended.Go(func() {
		ticker := time.NewTicker(startRetry)
		defer ticker.Stop()
		for {
			select {
			case <-m.ctx.Done():
				return
			case <-ticker.C:
				if m.Start(address) == nil {
					m.logger.Info("listening for the challenge of the authority, so certificates are requested", "address", m.opts.HTTPAddress)
					return
				}
			}
		}
	})
}

// account returns the account at the authority and the one challenge.
func account(opts Options, logger *zap.Logger) certmagic.ACMEIssuer {
	issuer := certmagic.ACMEIssuer{
		CA: opts.Directory, Email: opts.Email, Agreed: true, TrustedRoots: opts.Roots, Logger: logger, CertObtainTimeout: obtainTimeout,
		DisableHTTPChallenge: opts.Challenge != HTTP, DisableTLSALPNChallenge: opts.Challenge != TLSALPN,
	}
	if opts.KeyID != "" {
		issuer.ExternalAccount = &acme.EAB{KeyID: opts.KeyID, MACKey: opts.HMACKey}
	}
	switch opts.Challenge {
	case HTTP:
		issuer.ListenHost, issuer.AltHTTPPort = splitAddress(opts.HTTPAddress)
	case DNS:
		issuer.DNS01Solver = &solver{opts.DNS}
	case TLSALPN:
	}
	return issuer
}

var _ acmez.Solver = (*solver)(nil)

func splitAddress(address string) (host string, port int) {
	host, text, _ := net.SplitHostPort(address)
	port, _ = strconv.Atoi(text) // listeners have one
	return host, port
}

// listen answers the challenge HTTP, also that of another process on the same store. It
// does so all the time: the authority may ask any of them.
func (m *Manager) listen() error {
	if m.listening {
		return nil
	}
	listener, err := net.Listen("tcp", m.opts.HTTPAddress)
	if err != nil {
		return err
	}
	m.listening = true
	m.ended.Go(func() { _ = m.server.Serve(listener) }) // until Close
	return nil
}

// proofs answers the challenge HTTP. Only names that are configured are looked up in the
// store: clients may ask for any.
func (m *Manager) proofs() http.Handler {
	answer := m.issuer.HTTPChallengeHandler(http.NotFoundHandler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if !m.asked[strings.ToLower(host)] {
			http.NotFound(w, r)
			return
		}
		answer.ServeHTTP(w, r)
	})
}

// load takes the certificates from the store, so that a restart serves at once.
func (m *Manager) load() {
	var missing []string
	for _, host := range m.opts.Hosts {
		_, err := m.config.CacheManagedCertificate(m.ctx, host)
		if err != nil {
			missing = append(missing, host)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.logger.Error("cannot use a stored certificate, so a new one is requested", "host", host, "error", err)
		}
	}
	if len(missing) > 0 {
		m.logger.Warn("there is no certificate yet, so TLS handshakes are refused until the authority has issued it", "hosts", missing, "directory", m.opts.Directory)
	}
}

// event logs the certificates that come, and those that do not.
func (m *Manager) event(_ context.Context, name string, data map[string]any) error {
	host, renewal := data["identifier"], data["renewal"] == true
	switch name {
	case "cert_obtained":
		m.logger.Info("the authority has issued a certificate", "host", host, "renewal", renewal)
	case "cert_failed":
		text := "cannot get a certificate, so TLS handshakes are refused. Weir tries again. "
		if renewal {
			text = "cannot renew a certificate. Weir tries again, and serves the old one until it expires. "
		}
		m.logger.Error(text+m.opts.Challenge.advice(), "host", host, "error", data["error"])
	}
	return nil
}

// Certificate returns the certificate for a handshake, or that of a challenge. Its error
// is an ErrNone if the authority has issued none yet, or a challenge is for a name that is
// not configured: the store is not asked for those.
func (m *Manager) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) && !m.asked[strings.ToLower(hello.ServerName)] {
		return nil, fmt.Errorf("%w: the challenge is for another host", ErrNone)
	}
	certificate, err := m.config.GetCertificate(hello)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return certificate, nil
}

// Served returns a certificate for each host.
func (m *Manager) Served() []door.Served {
	served := make([]door.Served, len(m.opts.Hosts))
	for i, host := range m.opts.Hosts {
		served[i].Host = host
		for _, c := range m.cache.AllMatchingCertificates(host) {
			if c.Leaf != nil && c.Leaf.NotAfter.After(served[i].Ends) {
				served[i].Begins, served[i].Ends = c.Leaf.NotBefore, c.Leaf.NotAfter
			}
		}
	}
	return served
}

// Close ends all work. Certificates stay in the store.
func (m *Manager) Close() {
	m.cancel()
	if m.server != nil {
		m.server.Close()
	}
	m.ended.Wait()
	m.cache.Stop()
}
