package cluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"github.com/weirhq/weir/internal/reply"
	"github.com/weirhq/weir/internal/seal"
)

// Options configure a [Cluster].
type Options struct {
	// URL is where other replicas reach this one: a scheme, a host and a port.
	URL string
	// Lease is how long a replica that died holds up others.
	Lease time.Duration
	// Secret is shared by all replicas. It seals requests between them; empty: they have
	// certificates, see TLS.
	Secret string
	// RedisSecret seals the values in Redis if there is no Secret.
	RedisSecret string
	// TLS has the certificate of this replica, and the authorities of the others' in
	// RootCAs and ClientCAs; nil: plain HTTP.
	TLS *tls.Config
	// Contents are served to other replicas.
	Contents Contents
	// Uploaded waits until a stored blob is in a bucket that all replicas read, or until that
	// cannot be expected soon; nil: there is none.
	Uploaded func(ctx context.Context, dgst digest.Digest) error
	Metrics  *Metrics
	// RedisAdvice and ReplicaAdvice return the remedy for a failure of Redis, and of another
	// replica; nil: there is none.
	RedisAdvice, ReplicaAdvice func(error) string
	Logger                     *slog.Logger
}

// Contents are the blobs of this replica.
type Contents interface {
	// Open opens a blob at an offset: one that is stored or, unless stored is set, the
	// running download of a block, which is read as it grows. Read returns io.EOF only at
	// the end of a verified blob. It returns an error that wraps ErrNotHere if there is
	// neither.
	Open(ctx context.Context, want Want, stored bool) (*Content, error)
}

// Content is a blob of this replica.
type Content struct {
	io.ReadCloser       // a syscall.Conn, or a stretch of a reply.Growing, is sent by the kernel
	Size          int64 // of the whole; -1 if it is not known yet
	// Link, if set, makes the trace of the download refer to that of its follower, and
	// returns its own.
	Link func(follower trace.SpanContext) trace.SpanContext
}

// ErrNotHere says that a replica has neither a blob nor its download.
var ErrNotHere = errors.New("cluster: the replica does not have the content")

// Want is the content that a download wants.
type Want struct {
	Digest digest.Digest
	Block  string // the key of the repository block that downloads it
	Offset int64
	// OnEnd registers a function for the end of the download's turn. If it is nil, the
	// content is read from a replica that has it, and never downloaded.
	OnEnd func(ended func(stored bool))
}

// Cluster is the membership of one replica. Its methods may be called concurrently.
type Cluster struct {
	opts    Options
	id      string       // of this process
	sealer  *seal.Sealer // of values in Redis; nil: they are not sealed
	signer  *signer
	gate    *gate
	peers   *peers
	serving chan struct{} // a place for each request that is served
	copier  reply.Copier

	ctx     context.Context // of all work in the background
	stop    context.CancelFunc
	running sync.WaitGroup
	// releases are ends of turns, which others wait for: they are let end.
	releases sync.WaitGroup
	handling sync.WaitGroup // requests of other replicas
	// lingering has a place for each lease that waits for an upload, and open ends with Close.
	lingering *semaphore.Weighted
	open      context.Context
	endOpen   context.CancelFunc

	mu     sync.Mutex
	closed bool              // no request is served any more
	held   map[string]*lease // by the name of the key
}

// New returns a replica without Redis: it works alone until [Cluster.Use].
func New(opts Options) *Cluster {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	none := func(error) string { return "" }
	if opts.RedisAdvice == nil {
		opts.RedisAdvice = none
	}
	if opts.ReplicaAdvice == nil {
		opts.ReplicaAdvice = none
	}
	ctx, stop := context.WithCancel(context.Background())
	open, endOpen := context.WithCancel(ctx)
	secret := opts.Secret
	if secret == "" {
		secret = opts.RedisSecret
	}
	c := &Cluster{
		opts: opts, id: rand.Text(), sealer: seal.New(secret, "weir cluster value v1"),
		signer:  &signer{seal.New(opts.Secret, "weir cluster request v1")},
		gate:    newGate(opts.Logger, opts.RedisAdvice),
		serving: make(chan struct{}, maxServing),
		ctx:     ctx, stop: stop, held: make(map[string]*lease),
		lingering: semaphore.NewWeighted(maxLingering), open: open, endOpen: endOpen,
	}
	c.peers = newPeers(c)
	c.running.Go(func() { c.heartbeat(ctx) })
	return c
}

// Use works with another Redis from now on, below a prefix of its keys; nil: with none. The
// caller closes the client later than the next Use or the Close.
func (c *Cluster) Use(client redis.UniversalClient, prefix string) {
	if client == nil {
		c.gate.use(nil, "")
		return
	}
	c.gate.use(&redisBoard{client}, prefix)
}

// warn logs a problem with its remedy.
func (c *Cluster) warn(message, key, value string, err error) {
	c.opts.Logger.Warn(strings.TrimSpace(message+". "+c.opts.ReplicaAdvice(err)), key, value, "error", err)
}

// Close gives leases back and ends all work in the background. No download is under way any
// more.
func (c *Cluster) Close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.endOpen()
	c.handling.Wait() // the server is closed
	c.releases.Wait() // giveBackTime at most
	c.stop()
	c.gate.use(nil, "")
	c.running.Wait()
	c.peers.close()
}
