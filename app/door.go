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
	"github.com/weirhq/weir/internal/whoami"
)

// endsSoon is how long before the end of a certificate the log warns at a start and a
// reload. The alert WeirCertificateEnds has the same time.
const endsSoon = 14 * 24 * time.Hour

// entrance is the TLS side of a mirror. A nil *entrance is plain HTTP, until the next
// start.
type entrance struct {
	door   *door.Door // made by the first use
	dir    string     // of the data
	logger *slog.Logger
}

// newEntrance returns the TLS side of a configuration, nil if there is none. It has no
// certificate before its first use.
func newEntrance(cfg *config.Config, metrics prometheus.Registerer, logger *slog.Logger) *entrance {
	if cfg.Server.TLS == nil {
		return nil
	}
	e := &entrance{dir: cfg.BlobStore.FS.RootDir, logger: logger}
	metrics.MustRegister(e)
	return e
}

// prepare returns the settings of a configuration. It reads the certificate, or makes it.
// It returns nil if the configuration has none, since TLS ends at the next start only.
func (e *entrance) prepare(cfg *config.TLS) (*door.Settings, error) {
	if e == nil || cfg == nil {
		return nil, nil //nolint:nilnil // no change is an answer
	}
	files, err := readTLSFiles(cfg.ServerCertificateBundle, cfg.ServerPrivateKey, cfg.ClientCABundle)
	if err != nil {
		return nil, fmt.Errorf("server.tls: %w", err)
	}
	settings := &door.Settings{RequireClient: cfg.RequiresClient(), HTTP2: cfg.HTTP2}
	if settings.ClientCAs, err = files.clients(); err != nil {
		return nil, fmt.Errorf("server.tls.client_ca_bundle: %w", err)
	}
	if settings.Source, err = e.source(cfg, files); err != nil {
		return nil, err
	}
	return settings, nil
}

// source returns the one place that a configuration has a certificate from.
func (e *entrance) source(cfg *config.TLS, files tlsFiles) (door.Source, error) {
	if cfg.SelfSigned {
		certificate, created, err := door.SelfSigned(e.dir)
		if err != nil {
			return nil, fmt.Errorf("server.tls.self_signed: cannot keep a certificate in blob_store.fs.root_dir: %w", whoami.Explain(err))
		}
		if created {
			sum := sha256.Sum256(certificate.Certificate[0])
			e.logger.Info("made a self-signed certificate. Clients trust it with the files of weir client-config",
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
func (e *entrance) use(settings *door.Settings) error {
	if settings == nil {
		return nil
	}
	if e.door == nil {
		var err error
		if e.door, err = door.New(*settings); err != nil {
			return err
		}
	} else {
		e.door.Set(*settings)
	}
	e.warn(time.Now())
	return nil
}

// warn logs certificates that clients refuse, or will soon.
func (e *entrance) warn(now time.Time) {
	for _, c := range e.door.Served() {
		switch attrs := []any{"host", c.Host, "begins", c.Begins, "ends", c.Ends}; {
		case c.Ends.IsZero():
		case now.After(c.Ends):
			e.logger.Error("the certificate of the server has expired, so clients refuse it. Renew it (server.tls)", attrs...)
		case now.Before(c.Begins):
			e.logger.Error("the certificate of the server is not valid yet, so clients refuse it. Check the clock, and the certificate (server.tls)", attrs...)
		case c.Ends.Sub(now) < min(endsSoon, c.Ends.Sub(c.Begins)/4):
			e.logger.Warn("the certificate of the server ends soon. Renew it (server.tls)", attrs...)
		}
	}
}

// listener returns a listener of the entrance.
func (e *entrance) listener(inner net.Listener) net.Listener {
	if e == nil {
		return inner
	}
	return e.door.Listener(inner)
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
	begins := prometheus.NewDesc("weir_tls_certificate_start_timestamp_seconds", "When the certificate that clients see begins to be valid; 0: there is none yet.", host, nil)
	ends := prometheus.NewDesc("weir_tls_certificate_expiry_timestamp_seconds", "When the certificate that clients see, or one of its authorities, expires; 0: there is none yet.", host, nil)
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
