package app

import (
	"crypto/sha256"
	"log/slog"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
)

// clients are the clients of all upstreams. An upstream that is equal in two
// configurations has the same client in both, which keeps its connections and the
// upstream's health.
type clients struct {
	tokens    *tokencache.Cache
	cooldowns upstream.Cooldowns // may be nil
	metrics   *upstream.Metrics
	id        via.ID
	logger    *slog.Logger
	denied    *deniedLog
	bandwidth *upstream.Bandwidth // of all clients together
	current   clientSet

	given *tlsFiles // of a trial, in place of the files that upstreams name; nil: it is none
	dial  dialer    // of a trial; nil: the usual way to connect
}

// clientSet is the clients of one configuration. It starts empty, get fills it, and
// commit or drop decides on it.
type clientSet map[clientKey]*upstream.Client

// clientKey holds everything that distinguishes two clients, including the content
// of their files: a renewed certificate makes a new client.
type clientKey struct {
	config.Upstream
	limits contentLimits
	files  [sha256.Size]byte
}

// contentLimits are the largest blobs that upstreams may deliver, in bytes.
type contentLimits struct {
	manifest int64
	blob     int64 // 0: no limit
}

func newClients(tokens *tokencache.Cache, cooldowns upstream.Cooldowns, metrics *upstream.Metrics, id via.ID, logger *slog.Logger) *clients {
	return &clients{tokens: tokens, cooldowns: cooldowns, metrics: metrics, id: id, logger: logger, denied: &deniedLog{logger: logger}, bandwidth: upstream.NewBandwidth(0), current: clientSet{}}
}

// commit makes a set the current one and closes the clients that are no longer in
// use. Their running transfers end undisturbed.
func (c *clients) commit(next clientSet) {
	for key, client := range c.current {
		if next[key] == nil {
			client.Close()
		}
	}
	c.current = next
}

// drop closes the clients of a set that cannot be used. Clients of the current set
// stay open.
func (c *clients) drop(next clientSet) {
	for key, client := range next {
		if c.current[key] != client {
			client.Close()
		}
	}
}

func (c *clients) close() { c.commit(clientSet{}) }

// get returns the client for an upstream and adds it to next. It is the current
// set's client if nothing about the upstream has changed.
func (c *clients) get(next clientSet, u config.Upstream, limits contentLimits) (*upstream.Client, error) {
	files, err := c.filesOf(u)
	if err != nil {
		return nil, err
	}
	key := clientKey{u, limits, files.sum()}
	if next[key] == nil {
		next[key] = c.current[key]
	}
	if next[key] == nil {
		client, err := c.newClient(u, files, limits)
		if err != nil {
			delete(next, key) // a nil client could not be closed
			return nil, err
		}
		next[key] = client
	}
	return next[key], nil
}

func (c *clients) filesOf(u config.Upstream) (tlsFiles, error) {
	if c.given != nil {
		return *c.given, nil
	}
	return readTLSFiles(u.ClientCertificate, u.ClientPrivateKey, u.ServerCABundle)
}

func (c *clients) newClient(u config.Upstream, files tlsFiles, limits contentLimits) (*upstream.Client, error) {
	proxy, err := u.ProxyURL()
	if err != nil {
		return nil, err
	}
	version, _ := Version()
	opts := upstream.Options{
		URL: u.URL.Std(), APIPath: u.APIPath.Path(), Username: u.Username, Password: u.Password.Reveal(), Proxy: proxy,
		MaxRedirects: u.MaxRedirect, AllowPrivateRedirects: u.AllowPrivateRedirects, TokenRealm: u.TokenRealm, Reach: reachOf(u.Reach), ConnectTimeout: u.ConnectTimeout, ReadTimeout: u.ReadTimeout,
		MaxManifestSize: limits.manifest, MaxBlobSize: limits.blob, Segments: u.Segments, MaxConnections: u.MaxConnections, MaxBandwidth: int64(u.MaxBandwidth), Bandwidth: c.bandwidth, UserAgent: "weir/" + version, ID: c.id,
		Tokens: c.tokens, Cooldowns: c.cooldowns, Metrics: c.metrics, Logger: c.logger, DialContext: c.dial,
		OnDenied: func(e *upstream.Error) { c.denied.warn(u, e) },
	}
	if u.CredentialHelper != "" {
		opts.Helper = credhelper.New(u.CredentialHelper, helperServer(u), u.CredentialTTL.Std(), c.logger)
	}
	if opts.Certificate, err = files.pair(); err != nil {
		return nil, err
	}
	if opts.RootCAs, err = files.pool(); err != nil {
		return nil, err
	}
	return upstream.NewClient(opts), nil
}

// reachOf returns where an upstream may be.
func reachOf(r config.Reach) upstream.Reach {
	switch r {
	case config.ReachPublic:
		return upstream.ReachPublic
	case config.ReachNear:
		return upstream.ReachNear
	}
	return upstream.ReachAny
}

// helperServer returns the name by which credential helpers know an upstream: its host,
// and for Docker Hub the address that docker login uses.
func helperServer(u config.Upstream) string {
	if oci.IsDockerHub(u.URL.Std().Hostname()) {
		return "https://index.docker.io/v1/"
	}
	return u.URL.Host
}
