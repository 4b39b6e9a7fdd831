package app

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
)

// clients are the upstreams of all repositories. One that two configurations
// have in common is the same client in both: it keeps its connections, and
// what it knows about the upstream's health.
type clients struct {
	tokens    *tokencache.Cache
	cooldowns upstream.Cooldowns // may be nil
	metrics   *upstream.Metrics
	log       *slog.Logger
	current   generation
}

// generation is the clients of one configuration.
type generation map[clientKey]*upstream.Client

// clientKey is everything that makes one client different from another one,
// the content of its files included.
type clientKey struct {
	config.Upstream
	maxManifestSize int64
	files           [sha256.Size]byte
}

func newClients(tokens *tokencache.Cache, metrics *upstream.Metrics, log *slog.Logger) *clients {
	return &clients{tokens: tokens, metrics: metrics, log: log, current: generation{}}
}

// begin starts a generation, which ends with commit or drop.
func (c *clients) begin() generation { return generation{} }

// commit makes a generation the current one. What clients of the last one have
// under way ends undisturbed.
func (c *clients) commit(next generation) {
	for key, client := range c.current {
		if next[key] == nil {
			client.Close()
		}
	}
	c.current = next
}

// drop gives a generation up that cannot be used.
func (c *clients) drop(next generation) {
	for key, client := range next {
		if c.current[key] != client {
			client.Close()
		}
	}
}

func (c *clients) close() { c.commit(generation{}) }

// get returns the client for an upstream, the current generation's if nothing
// about it has changed.
func (c *clients) get(next generation, u config.Upstream, maxManifestSize int64) (*upstream.Client, error) {
	material, err := readMaterial(u)
	if err != nil {
		return nil, err
	}
	key := clientKey{u, maxManifestSize, material.sum()}
	if next[key] == nil {
		next[key] = c.current[key]
	}
	if next[key] == nil {
		client, err := c.newClient(u, material, maxManifestSize)
		if err != nil {
			return nil, err
		}
		next[key] = client
	}
	return next[key], nil
}

func (c *clients) newClient(u config.Upstream, files material, maxManifestSize int64) (*upstream.Client, error) {
	proxy, err := u.ProxyURL()
	if err != nil {
		return nil, err
	}
	version, _ := Version()
	opts := upstream.Options{
		URL: u.URL.Std(), Username: u.Username, Password: u.Password.Reveal(), Proxy: proxy,
		MaxRedirects: u.MaxRedirect, ConnectTimeout: u.ConnectTimeout, ReadTimeout: u.ReadTimeout,
		MaxManifestSize: maxManifestSize, UserAgent: "weir/" + version,
		Tokens: c.tokens, Cooldowns: c.cooldowns, Metrics: c.metrics, Logger: c.log,
	}
	if len(files.certificate) > 0 {
		pair, err := tls.X509KeyPair(files.certificate, files.key)
		if err != nil {
			return nil, fmt.Errorf("%s with %s: %w", u.ClientCertificate, u.ClientPrivateKey, err)
		}
		opts.Certificate = &pair
	}
	if len(files.roots) > 0 {
		if opts.RootCAs, err = x509.SystemCertPool(); err != nil {
			opts.RootCAs = x509.NewCertPool()
		}
		if !opts.RootCAs.AppendCertsFromPEM(files.roots) {
			return nil, fmt.Errorf("%s holds no certificate", u.ServerCABundle)
		}
	}
	return upstream.NewClient(opts), nil
}

// material is the content of the files that an upstream names.
type material struct{ certificate, key, roots []byte }

func readMaterial(u config.Upstream) (m material, err error) {
	for _, file := range []struct {
		path string
		into *[]byte
	}{{u.ClientCertificate, &m.certificate}, {u.ClientPrivateKey, &m.key}, {u.ServerCABundle, &m.roots}} {
		if file.path == "" {
			continue
		}
		if *file.into, err = os.ReadFile(file.path); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m material) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range [][]byte{m.certificate, m.key, m.roots} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}
