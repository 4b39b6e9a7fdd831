package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// fleet is the part that this mirror has in a fleet of replicas. A nil *fleet is a mirror
// that works alone.
type fleet struct {
	member   *cluster.Cluster
	contents *replicaContents
	bucket   *bucket // nil: there is none
	server   *http.Server
	listener net.Listener
	logger   *slog.Logger
}

// openFleet opens the listener for other replicas. No download is read from them before
// Redis is used.
func openFleet(cfg *config.Config, parts *storageParts, metrics prometheus.Registerer, logger *slog.Logger) (*fleet, error) {
	c := cfg.Cluster
	if c == nil {
		return nil, nil //nolint:nilnil // to work alone is an answer
	}
	settings, err := replicaTLS(c)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	host := replicaHost(cfg)
	listener, err := cluster.Listen(net.JoinHostPort(host.bind, strconv.Itoa(c.PeerPort)))
	if err != nil {
		return nil, fmt.Errorf("cannot listen for other replicas (cluster.peer_port): %w", err)
	}
	at := c.Advertise
	if at == "" {
		scheme := "http"
		if settings != nil {
			scheme = "https"
		}
		_, port, _ := net.SplitHostPort(listener.Addr().String()) // of a listener, which has one
		at = scheme + "://" + net.JoinHostPort(host.reached, port)
	}
	f := &fleet{contents: &replicaContents{store: parts.top}, bucket: parts.bucket, listener: listener, logger: logger}
	var uploaded func(context.Context, digest.Digest) error
	if parts.bucket != nil {
		uploaded = parts.bucket.uploads.Await
	}
	f.member = cluster.New(cluster.Options{
		URL: at, Lease: c.Lease, Secret: c.Secret.Reveal(), RedisSecret: cfg.Cache.Redis.SecretKey.Reveal(), TLS: settings,
		Contents: f.contents, Uploaded: uploaded, Metrics: cluster.NewMetrics(metrics), RedisAdvice: redisAdvice, ReplicaAdvice: replicaAdvice, Logger: logger,
	})
	if !f.member.Sealed() {
		logger.Warn("checks of tags are not shared between replicas, because any client of Redis could forge them. Set cluster.secret or cache.redis.secret_key")
	}
	f.server = f.member.Server()
	logger.Info("other replicas are served", "advertise", at, "address", listener.Addr().String())
	return f, nil
}

// ReplicaReport is how a running replica answers, for people.
type ReplicaReport struct {
	URL    string // or that it has another secret
	Failed string // "": it is reached
}

// ProbeReplicas asks the running replicas of a configuration for their names.
func ProbeReplicas(ctx context.Context, cfg *config.Config) ([]ReplicaReport, error) {
	files, err := readTLSFiles(cfg.Cache.Redis.ClientCertificate, cfg.Cache.Redis.ClientPrivateKey, cfg.Cache.Redis.ServerCABundle)
	if err != nil {
		return nil, fmt.Errorf("cache.redis: %w", err)
	}
	client, err := newRedis(cfg.Cache.Redis, files, (&net.Dialer{}).DialContext)
	if err != nil {
		return nil, fmt.Errorf("cache.redis: %w", err)
	}
	defer client.Close()
	settings, err := replicaTLS(cfg.Cluster)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	found, strangers, err := cluster.Probe(ctx, client, cfg.Cache.Redis.KeyPrefix, cluster.Options{
		Lease: cfg.Cluster.Lease, Secret: cfg.Cluster.Secret.Reveal(), RedisSecret: cfg.Cache.Redis.SecretKey.Reveal(), TLS: settings,
	})
	if err != nil {
		return nil, fmt.Errorf("%w. %s", err, redisAdvice(err))
	}
	reports := make([]ReplicaReport, len(found))
	for i, report := range found {
		reports[i] = ReplicaReport{URL: report.URL}
		if report.Err != nil {
			reports[i].Failed = report.Err.Error() + ". " + replicaAdvice(report.Err)
		}
	}
	if strangers > 0 {
		reports = append(reports, ReplicaReport{URL: "with another secret", Failed: fmt.Sprintf("%d of them. %s", strangers, replicaAdvice(cluster.ErrSecret))})
	}
	return reports, nil
}

// serve serves other replicas from the store and the downloads.
func (f *fleet) serve(downloads *download.Group) {
	if f == nil {
		return
	}
	f.contents.downloads = downloads
	listener := f.listener
	go func() {
		if err := f.member.Serve(f.server, listener); !errors.Is(err, http.ErrServerClosed) {
			f.logger.Error("other replicas are no longer served", "error", err)
		}
	}()
}

// use coordinates through a prepared client of Redis from now on.
func (f *fleet) use(next *sharedRedis) {
	switch {
	case f == nil:
	case next == nil:
		f.member.Use(nil, "")
	default:
		f.member.Use(next.client, next.cfg.KeyPrefix)
	}
}

// drain waits until other replicas have read to the end of their blobs.
func (f *fleet) drain(ctx context.Context) error {
	if f == nil {
		return nil
	}
	return f.server.Shutdown(ctx)
}

// close ends the membership. No download runs any more.
func (f *fleet) close() {
	if f == nil {
		return
	}
	f.server.Close()
	f.listener.Close() // if it was never served
	f.member.Close()
}

// origins returns the source of downloads in front of the upstreams.
func (f *fleet) origins() []download.Origin {
	if f == nil {
		return nil
	}
	return []download.Origin{fleetOrigin{f}}
}

// answers returns the checks of tags that replicas share, or nil.
func (f *fleet) answers() namespace.Answers {
	if f == nil || !f.member.Sealed() {
		return nil
	}
	return f.member
}

// commons returns the content that replicas share, or nil: it is in a bucket, or else each replica
// has its own and the others read that.
func (f *fleet) commons(b *bucket) namespace.Commons {
	switch {
	case f == nil:
		return nil
	case b != nil:
		return bucketCommons{b}
	default:
		return fleetCommons{f}
	}
}

// fleetCommons are the blobs of replicas that have a disk each.
type fleetCommons struct{ *fleet }

// Await tells the others that this replica has a blob.
func (c fleetCommons) Await(ctx context.Context, _ storage.RepoID, dgst digest.Digest) error {
	return c.member.Has(ctx, dgst)
}

func (fleetCommons) Reread(storage.RepoID, digest.Digest) {}

func (fleetCommons) Links() bool { return false }

// Lasting is for how long the others know that this replica has a blob.
func (fleetCommons) Lasting() time.Duration { return cluster.HaveLife }

func (fleetCommons) Paused() bool { return false }

// fleetOrigin reads downloads from other replicas.
type fleetOrigin struct{ *fleet }

// Open opens a blob at another replica, or returns download.ErrTurn.
func (o fleetOrigin) Open(ctx context.Context, want download.Want) (*download.Stream, error) {
	stream, err := o.member.Open(ctx, cluster.Want(want))
	if err != nil {
		if errors.Is(err, cluster.ErrTurn) {
			err = download.ErrTurn
		}
		if o.bucket != nil { // the content comes from an upstream
			o.bucket.uploads.Lost(want.Digest)
		}
		return nil, err
	}
	if o.bucket != nil { // the replica that downloads it uploads it
		o.bucket.uploads.Comes(want.Digest)
	}
	return &download.Stream{
		ReadCloser: stream, Size: stream.Size, Origin: stream.Host, Peer: true, Resumes: true,
		Reject: func() bool {
			stream.Reject()
			return true
		},
	}, nil
}

// replicaContents are the blobs that other replicas read.
type replicaContents struct {
	store     storage.Store
	downloads *download.Group
}

// Open opens a stored blob, or else follows its download.
func (r *replicaContents) Open(ctx context.Context, want cluster.Want, stored bool) (*cluster.Content, error) {
	content, err := r.open(ctx, want)
	if content != nil || stored || !errors.Is(err, storage.ErrNotExist) {
		return content, notHere(err)
	}
	follower, err := r.downloads.Follow(ctx, want.Digest, want.Block, want.Offset)
	if errors.Is(err, storage.ErrNotExist) { // the download has ended in between
		content, err = r.open(ctx, want)
		return content, notHere(err)
	}
	if err != nil {
		return nil, err
	}
	return &cluster.Content{ReadCloser: follower, Size: follower.Size(), Link: follower.Link}, nil
}

// open opens a stored blob at an offset.
func (r *replicaContents) open(ctx context.Context, want cluster.Want) (*cluster.Content, error) {
	object, err := r.store.Open(ctx, want.Digest)
	if err != nil {
		return nil, err
	}
	if _, err := object.Content.Seek(want.Offset, io.SeekStart); err != nil {
		object.Content.Close()
		return nil, err
	}
	return &cluster.Content{ReadCloser: object.Content, Size: object.Size}, nil
}

func notHere(err error) error {
	if errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("%w: %w", cluster.ErrNotHere, err)
	}
	return err
}

// replicaTLS returns the settings of TLS between replicas, or nil if there is no
// certificate. The files of the certificate are read again when they are renewed.
func replicaTLS(c *config.Cluster) (*tls.Config, error) {
	if c.Certificate == "" {
		return nil, nil //nolint:nilnil // plain HTTP is an answer
	}
	files, err := readTLSFiles(c.Certificate, c.Key, c.ClientCABundle)
	if err != nil {
		return nil, err
	}
	authorities, err := files.clients()
	if err != nil {
		return nil, err
	}
	renewed := &renewedPair{certificate: c.Certificate, key: c.Key}
	if _, err := renewed.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: renewed.get,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities, RootCAs: authorities,
	}, nil
}

// pairLife is how long the files of a certificate are not read again.
const pairLife = time.Minute

// renewedPair is a certificate whose files may be renewed at any time.
type renewedPair struct {
	certificate, key string

	mu   sync.Mutex
	pair *tls.Certificate
	read time.Time
}

func (r *renewedPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair != nil && time.Since(r.read) < pairLife {
		return r.pair, nil
	}
	r.read = time.Now()
	pair, err := tls.LoadX509KeyPair(r.certificate, r.key)
	if err == nil {
		r.pair = &pair
	}
	// Files that are being written now leave the last pair in force.
	if r.pair == nil {
		return nil, err
	}
	return r.pair, nil
}

// replicaAddress is where a replica listens, and is reached.
type replicaAddress struct {
	bind    string // empty: all addresses
	reached string
}

// replicaHost returns the host of a replica. If the configuration names none, it is the
// address of this machine on the way to Redis.
func replicaHost(cfg *config.Config) replicaAddress {
	if u, err := url.Parse(cfg.Cluster.Advertise); err == nil && u.Host != "" {
		if hosts.Loopback(u.Hostname()) {
			return replicaAddress{"127.0.0.1", u.Hostname()}
		}
		return replicaAddress{"", u.Hostname()}
	}
	own := ownAddress(cfg.Cache.Redis.Addrs)
	if own.IsLoopback() {
		return replicaAddress{own.String(), own.String()}
	}
	return replicaAddress{"", own.String()}
}

// findTime bounds the search for the address of this machine, which may ask the DNS.
const findTime = 2 * time.Second

// ownAddress returns the address of this machine from which one of some others is reached, or
// any other that it has. It sends no packet to them.
func ownAddress(others []string) netip.Addr {
	ctx, cancel := context.WithTimeout(context.Background(), findTime)
	defer cancel()
	for _, other := range others {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", other)
		if err != nil {
			continue
		}
		local, ok := conn.LocalAddr().(*net.UDPAddr)
		conn.Close()
		if ok {
			return local.AddrPort().Addr().Unmap()
		}
	}
	addresses, _ := net.InterfaceAddrs() // without one, only this machine is left
	for _, address := range addresses {
		if n, ok := address.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				return addr.Unmap()
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
