package app

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/door/acme"
	"github.com/weirhq/weir/internal/whoami"
	"github.com/weirhq/weir/storage"
)

// endsSoon is how long before the end of a certificate the log warns at a start and a
// reload. The alert WeirCertificateEnds has the same time.
const endsSoon = 14 * 24 * time.Hour

// entrance is the TLS side of a mirror. A nil *entrance is plain HTTP, until the next
// start.
type entrance struct {
	door   *door.Door // made by the first use
	dir    string     // of the data
	bind   string     // address of the listeners
	store  storage.Records
	shared *acme.Shared // the store, if there is a bucket; else nil
	locks  *acmeLocks
	logger *slog.Logger

	listening net.Addr // nil: before the start
	acme      *authority
}

// authority is the manager of certificates for one table [server.tls.acme].
type authority struct {
	*acme.Manager
	cfg config.ACME
	ca  [sha256.Size]byte
}

// prepared is a configuration of an entrance that is not in force yet.
type prepared struct {
	settings door.Settings
	acme     *authority // nil: certificates come from elsewhere
}

// newEntrance returns the TLS side of a configuration, nil if there is none. It has no
// certificate before its first use. Certificates of an authority are in the records of this
// machine and, if there is a bucket and a secret, there too: past the records of the tier, which
// are written later and remembered.
func newEntrance(cfg *config.Config, parts *storageParts, metrics prometheus.Registerer, logger *slog.Logger) *entrance {
	if cfg.Server.TLS == nil {
		return nil
	}
	dir := cfg.BlobStore.FS.RootDir
	e := &entrance{dir: dir, bind: cfg.Server.BindAddress, store: parts.driver.Records(), locks: newACMELocks(dir, logger), logger: logger}
	if parts.bucket != nil {
		e.shared = acme.NewShared(acme.SharedOptions{Near: e.store, Far: parts.bucket.store.Records(), Logger: logger})
		e.shared.Use(replicaSecret(cfg))
		e.store = e.shared
	}
	metrics.MustRegister(e)
	return e
}

// prepare returns the settings of a configuration. It reads the certificate, or makes it.
// It returns nil if the configuration has none, since TLS ends at the next start only.
func (e *entrance) prepare(cfg *config.TLS) (*prepared, error) {
	if e == nil || cfg == nil {
		return nil, nil //nolint:nilnil // no change is an answer
	}
	files, err := readTLSFiles(cfg.ServerCertificateBundle, cfg.ServerPrivateKey, cfg.ClientCABundle)
	if err != nil {
		return nil, fmt.Errorf("server.tls: %w", err)
	}
	next := &prepared{settings: door.Settings{RequireClient: cfg.RequiresClient(), HTTP2: cfg.HTTP2}}
	if next.settings.ClientCAs, err = files.clients(); err != nil {
		return nil, fmt.Errorf("server.tls.client_ca_bundle: %w", err)
	}
	if cfg.ACME == nil {
		next.settings.Source, err = e.source(cfg, files)
		return next, err
	}
	if next.acme, err = e.authority(*cfg.ACME); err != nil {
		return nil, fmt.Errorf("server.tls.acme: %w", err)
	}
	next.settings.Source = next.acme
	return next, nil
}

// drop ends prepared settings that will not be used.
func (e *entrance) drop(next *prepared) {
	if next != nil && next.acme != nil && next.acme != e.acme {
		next.acme.Close()
	}
}

// source returns the one place that a configuration has a certificate from.
func (e *entrance) source(cfg *config.TLS, files tlsFiles) (door.Source, error) {
	if cfg.SelfSigned {
		certificate, created, err := door.SelfSigned(e.dir)
		if err != nil {
			return nil, fmt.Errorf("server.tls.self_signed: cannot use or create a certificate below blob_store.fs.root_dir: %w", whoami.Explain(err))
		}
		if created {
			sum := sha256.Sum256(certificate.Certificate[0])
			e.logger.Info("created a self-signed certificate. The files of weir client-config make clients trust it",
				"path", door.SelfSignedPath(e.dir), "sha256", hex.EncodeToString(sum[:]))
		}
		return door.NewFixed(certificate)
	}
	pair, err := files.pair()
	switch {
	case err != nil:
		return nil, fmt.Errorf("server.tls.server_certificate_bundle: %w", err)
	case pair == nil: // the file was emptied since it was checked
		return nil, errors.New("server.tls.server_certificate_bundle is empty")
	}
	return door.NewFixed(pair)
}

// use puts prepared settings in force; nil changes nothing.
func (e *entrance) use(next *prepared) error {
	if next == nil {
		return nil
	}
	if e.door == nil {
		var err error
		if e.door, err = door.New(next.settings); err != nil {
			return err
		}
	} else {
		e.door.Set(next.settings)
	}
	last := e.acme
	e.acme = next.acme
	if last != nil && last != e.acme {
		last.Close() // its listener has the port of the next one
	}
	e.warn(time.Now())
	if e.acme != nil && e.acme != last && e.shared != nil && !e.shared.Shares() {
		// The bucket is no place for a private key in clear.
		e.logger.Warn("each replica requests its own certificates, because the bucket is shared but there is no secret to encrypt them with. " +
			"Set cache.redis.secret_key or cluster.secret on all replicas to share them")
	}
	if e.acme != nil && e.acme != last && e.listening != nil {
		// The port could not be tried before: it may have been that of the last one.
		if err := e.startACME(); err != nil {
			e.logger.Error("certificates cannot be requested yet (server.tls.acme). Weir tries again every second", "error", err)
			e.acme.StartLater(e.listening)
		}
	}
	return nil
}

// start begins the work that needs a listener. It must be open.
func (e *entrance) start(listening net.Addr) error {
	if e == nil {
		return nil
	}
	e.listening = listening
	if e.acme == nil {
		return nil
	}
	return e.startACME()
}

func (e *entrance) startACME() error {
	if err := e.acme.Start(e.listening); err != nil {
		return fmt.Errorf("cannot listen for the challenge of the authority (server.tls.acme.http_port). Free the port, or use another challenge: %w", err)
	}
	return nil
}

// share has locks in a Redis from now on, nil stands for none, and shares certificates by the
// secret of a configuration.
func (e *entrance) share(redis *sharedRedis, cfg *config.Config) {
	if e == nil {
		return
	}
	e.locks.redis.Store(redis)
	if e.shared != nil {
		e.shared.Use(replicaSecret(cfg))
	}
}

// replicaSecret returns the secret that all replicas have, or "".
func replicaSecret(cfg *config.Config) string {
	if cfg.Cluster != nil && cfg.Cluster.Secret != "" {
		return cfg.Cluster.Secret.Reveal()
	}
	if cfg.Cache.Redis != nil {
		return cfg.Cache.Redis.SecretKey.Reveal()
	}
	return ""
}

// close ends the work in the background.
func (e *entrance) close() {
	if e != nil && e.acme != nil {
		e.acme.Close()
	}
}

// warn logs certificates that clients refuse, or will soon. Those of an authority are
// renewed, and their failures logged.
func (e *entrance) warn(now time.Time) {
	if e.acme != nil {
		return
	}
	for _, c := range e.door.Served() {
		switch attrs := []any{"host", c.Host, "begins", c.Begins, "ends", c.Ends}; {
		case c.Ends.IsZero():
		case now.After(c.Ends):
			e.logger.Error("the certificate of the server has expired, so clients refuse it. Renew it (server.tls)", attrs...)
		case now.Before(c.Begins):
			e.logger.Error("the certificate of the server is not valid yet, so clients refuse it. Check the clock, and the certificate (server.tls)", attrs...)
		case c.Ends.Sub(now) < min(endsSoon, c.Ends.Sub(c.Begins)/4):
			e.logger.Warn("the certificate of the server expires soon. Renew it (server.tls)", attrs...)
		}
	}
}

// listener returns a listener of the entrance.
func (e *entrance) listener(inner net.Listener) net.Listener {
	if e == nil {
		return inner
	}
	return e.door.Listener(inner, e.logger)
}

// guard returns a handler that stands before all others.
func (e *entrance) guard(next, probes http.Handler) http.Handler {
	if e == nil {
		return next
	}
	return e.door.Guard(next, probes)
}

// scheme returns that of the mirror's URL.
func (e *entrance) scheme() string {
	if e == nil {
		return "http"
	}
	return "https"
}

// Describe implements prometheus.Collector.
func (e *entrance) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(e, descs) }

// Collect writes the times of the certificates that clients see at the moment. The end
// of a certificate that there is not yet is 0.
func (e *entrance) Collect(metrics chan<- prometheus.Metric) {
	if e.door == nil {
		return
	}
	host := []string{"host"}
	begins := prometheus.NewDesc("weir_tls_certificate_start_timestamp_seconds", "When the certificate that clients see becomes valid; 0 if there is none yet.", host, nil)
	ends := prometheus.NewDesc("weir_tls_certificate_expiry_timestamp_seconds", "When the certificate that clients see, or one of its authorities, expires; 0 if there is none yet.", host, nil)
	handshakes := prometheus.NewDesc("weir_tls_handshakes_total", "TLS handshakes with clients, by result: completed, failed, or refused if too many were under way.", []string{"result"}, nil)
	completed, failed, refused := e.door.Handshakes()
	for result, n := range map[string]int64{"completed": completed, "failed": failed, "refused": refused} {
		metrics <- prometheus.MustNewConstMetric(handshakes, prometheus.CounterValue, float64(n), result)
	}
	for _, c := range e.door.Served() {
		metrics <- prometheus.MustNewConstMetric(begins, prometheus.GaugeValue, timestamp(c.Begins), c.Host)
		metrics <- prometheus.MustNewConstMetric(ends, prometheus.GaugeValue, timestamp(c.Ends), c.Host)
	}
}

// timestamp returns a time as Prometheus has it, 0 for none.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
