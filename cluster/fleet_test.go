package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func redisMember(name string, score float64) redis.Z { return redis.Z{Member: name, Score: score} }

const (
	secret = "a secret that all replicas of a test have"
	prefix = "test"
	lease  = 10 * time.Second
)

// blobs are those of a replica: what a test says.
type contents struct {
	mu    sync.Mutex
	bytes map[digest.Digest]*growing
	hangs bool
}

// growing is a blob whose bytes come one after the other.
type growing struct {
	dgst    digest.Digest
	mu      sync.Mutex
	have    []byte
	size    int64
	failed  error
	stored  bool
	changed chan struct{}
}

func newGrowing(size int) *growing { return &growing{size: int64(size), changed: make(chan struct{})} }

func (g *growing) update(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *growing) add(p []byte)   { g.update(func() { g.have = append(g.have, p...) }) }
func (g *growing) fail(err error) { g.update(func() { g.failed = err }) }

func dgstOf(g *growing) digest.Digest { return g.dgst }

// hang makes all blobs silent: no byte comes, and nothing is found.
func (c *contents) hang()   { c.setHangs(true) }
func (c *contents) resume() { c.setHangs(false) }

func (c *contents) setHangs(hangs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangs = hangs
}

func (c *contents) set(dgst digest.Digest, g *growing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes[dgst] = g
}

func (c *contents) Open(ctx context.Context, want cluster.Want, stored bool) (*cluster.Content, error) {
	c.mu.Lock()
	g, hangs := c.bytes[want.Digest], c.hangs
	c.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if g == nil || stored && !g.stored {
		return nil, cluster.ErrNotHere
	}
	return &cluster.Content{ReadCloser: &growingReader{ctx, g, want.Offset}, Size: g.size}, nil
}

type growingReader struct {
	ctx context.Context
	g   *growing
	at  int64
}

func (r *growingReader) Read(p []byte) (int, error) {
	for {
		r.g.mu.Lock()
		n := 0
		if r.at < int64(len(r.g.have)) {
			n = copy(p, r.g.have[r.at:])
		}
		failed, changed := r.g.failed, r.g.changed
		r.g.mu.Unlock()
		switch r.at += int64(n); {
		case n > 0:
			return n, nil
		case r.at >= r.g.size && r.g.size >= 0:
			return 0, io.EOF
		case failed != nil:
			return 0, failed
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *growingReader) Close() error { return nil }

// replica is one of a test.
type replica struct {
	*cluster.Cluster
	url      string
	contents *contents
	server   *http.Server
	log      *testutil.LogBuffer
	metrics  *prometheus.Registry
	ended    []func(bool)
	mu       sync.Mutex
	close    func() // which the end of the test calls too
}

// bench has replicas, a network and a Redis in memory.
type bench struct {
	t       *testing.T
	network *upstreamtest.Network
	redis   *memory
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, network: upstreamtest.NewNetwork(), redis: newMemory()}
}

// start starts a replica.
func (b *bench) start(name string, change ...func(*cluster.Options)) *replica {
	b.t.Helper()
	r := &replica{url: "http://" + name + ":8001", contents: &contents{bytes: map[digest.Digest]*growing{}}, log: &testutil.LogBuffer{}, metrics: prometheus.NewRegistry()}
	opts := cluster.Options{URL: r.url, Lease: lease, Secret: secret, Contents: r.contents, Metrics: cluster.NewMetrics(r.metrics), Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, c := range change {
		c(&opts)
	}
	r.Cluster = cluster.New(opts)
	r.Dial(b.network.DialContext)
	r.UseBoard(b.redis, prefix)
	r.server = r.Server()
	listener, err := b.network.Listen(name + ":8001")
	if err != nil {
		b.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = r.server.Serve(listener) })
	r.close = sync.OnceFunc(func() {
		r.server.Close()
		serving.Wait()
		r.Close()
	})
	b.t.Cleanup(r.close)
	return r
}

// want is a want whose turn ends by replica.end.
func (r *replica) want(dgst digest.Digest, offset int64) cluster.Want {
	return cluster.Want{Digest: dgst, Block: "docker.io", Offset: offset, OnEnd: func(ended func(bool)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = append(r.ended, ended)
	}}
}

// end ends all turns of the replica.
func (r *replica) end(stored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ended := range r.ended {
		ended(stored)
	}
	r.ended = nil
}

// counts fails the test unless a result was counted so often.
func (r *replica) counts(t *testing.T, result string, want float64) {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == result && m.GetCounter().GetValue() != want {
					t.Errorf("%s: %v, want %v", result, m.GetCounter().GetValue(), want)
				}
			}
		}
	}
}

// turn fails the test unless it is the turn of the replica.
func (r *replica) turn(t *testing.T, dgst digest.Digest, offset int64) {
	t.Helper()
	if stream, err := r.Open(t.Context(), r.want(dgst, offset)); !errors.Is(err, cluster.ErrTurn) {
		t.Fatalf("%s: stream %v, error %v, want its turn", r.url, stream, err)
	}
}

// reads opens a blob at an offset, and fails the test unless another replica delivers it.
func (r *replica) reads(t *testing.T, dgst digest.Digest, offset int64, from *replica) *cluster.Stream {
	t.Helper()
	stream, err := r.Open(t.Context(), r.want(dgst, offset))
	if err != nil {
		t.Fatalf("%s: %v, want a stream of %s", r.url, err, from.url)
	}
	if "http://"+stream.Host != from.url {
		t.Errorf("%s reads from %s, want %s", r.url, stream.Host, from.url)
	}
	return stream
}

func body(size int) (digest.Digest, []byte) {
	b := bytes.Repeat([]byte("content "), size/8+1)[:size]
	return digest.FromBytes(b), b
}

// all reads a stream to its end.
func all(t *testing.T, s *cluster.Stream, want []byte) {
	t.Helper()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want %d", len(got), err, len(want))
	}
	s.Close()
}

func logged(log *testutil.LogBuffer, texts ...string) error {
	if log.Count(texts...) != 1 {
		return fmt.Errorf("%d lines with %q in\n%s", log.Count(texts...), strings.Join(texts, " "), log)
	}
	return nil
}
