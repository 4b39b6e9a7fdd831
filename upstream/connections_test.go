package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// nat forgets connections: from then on it drops all bytes that the client sends, and
// tells neither side.
type nat struct {
	network *upstreamtest.Network

	mu    sync.Mutex
	conns []*natConn
	dead  bool // new connections are forgotten at once
}

type natConn struct {
	net.Conn
	forgotten atomic.Bool
}

func (c *natConn) Write(p []byte) (int, error) {
	if c.forgotten.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (n *nat) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := n.network.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &natConn{Conn: conn}
	c.forgotten.Store(n.dead)
	n.conns = append(n.conns, c)
	return c, nil
}

// forget forgets all connections so far, and new ones too if dead.
func (n *nat) forget(dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = dead
	for _, c := range n.conns {
		c.forgotten.Store(true)
	}
}

// throughNAT runs a test with a client that is behind a NAT, and has a connection to the
// registry that was used.
func throughNAT(t *testing.T, test func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, n *nat), options ...upstreamtest.Option) {
	t.Helper()
	inMemory(t, func(t *testing.T, network *upstreamtest.Network) {
		r := upstreamtest.New(t, append(options, upstreamtest.WithNetwork(network, "registry.test"))...)
		r.AddImage("app", "v1", []byte("layer"))
		n := &nat{network: network}
		c := newClient(t, r, func(o *upstream.Options) {
			o.DialContext = n.dial
			if r.URL.Scheme == "https" {
				o.RootCAs = r.RootCAs()
			}
		})
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		r.ResetRequests()
		test(t, r, c, n)
	})
}

// A connection that was used before and has gone silent costs a few seconds, and one
// request on a new connection.
func TestSilentConnection(t *testing.T) {
	dgst := digest.FromString("layer")
	for name, ask := range map[string]struct {
		want string
		do   func(ctx context.Context, c *upstream.Client) error
	}{
		"manifest": {"GET /v2/app/manifests/v1 200", func(ctx context.Context, c *upstream.Client) error {
			_, err := c.Manifest(ctx, "app", oci.ByTag("v1"))
			return err
		}},
		"head": {"HEAD /v2/app/manifests/v1 200", func(ctx context.Context, c *upstream.Client) error {
			_, err := c.Head(ctx, "app", oci.ByTag("v1"))
			return err
		}},
		"blob": {"GET /v2/app/blobs/" + dgst.String() + " 200", func(ctx context.Context, c *upstream.Client) error {
			_, err := readAll(c.Blob(ctx, "app", dgst, 0, -1))
			return err
		}},
		"stat": {"HEAD /v2/app/blobs/" + dgst.String() + " 200", func(ctx context.Context, c *upstream.Client) error {
			_, err := c.StatBlob(ctx, "app", dgst)
			return err
		}},
		"tags": {"GET /v2/app/tags/list 200", func(ctx context.Context, c *upstream.Client) error { _, err := c.Tags(ctx, "app", nil); return err }},
		"root": {"GET /v2/ 200", func(ctx context.Context, c *upstream.Client) error {
			if report := c.Probe(ctx, upstream.ProbeOptions{}); report.Err != nil {
				return report.Err
			}
			return nil
		}},
	} {
		for protocol, options := range map[string][]upstreamtest.Option{"HTTP/1.1": nil, "TLS": {upstreamtest.WithTLS()}} {
			t.Run(name+" over "+protocol, func(t *testing.T) {
				throughNAT(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, n *nat) {
					n.forget(false)
					began := time.Now()
					if err := ask.do(t.Context(), c); err != nil {
						t.Error(err)
					}
					if took := time.Since(began); took > 2*time.Second {
						t.Errorf("it took %v", took)
					}
					if got := r.Requests(); !slices.Equal(got, []string{ask.want}) || n.network.Dials(r.URL.Host) != 2 {
						t.Errorf("the registry was asked %q over %d connections", got, n.network.Dials(r.URL.Host))
					}
					// The next request uses the new connection at once.
					began = time.Now()
					if err := ask.do(t.Context(), c); err != nil || time.Since(began) > time.Second || n.network.Dials(r.URL.Host) != 2 {
						t.Errorf("%v after %v over %d connections", err, time.Since(began), n.network.Dials(r.URL.Host))
					}
				}, options...)
			})
		}
	}
}

// A registry behind which the network is gone fails within the usual time.
func TestSilentNetwork(t *testing.T) {
	throughNAT(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, n *nat) {
		n.forget(true)
		began := time.Now()
		_, err := c.Manifest(t.Context(), "app", oci.ByTag("v1"))
		if failed := wantError(t, err, upstream.ErrUnavailable); !failed.Timeout() || time.Since(began) > 7*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := n.network.Dials(r.URL.Host); got != 2 {
			t.Errorf("%d connections", got)
		}
	})
}

// A client that leaves ends both requests.
func TestClientLeavesSilentConnection(t *testing.T) {
	throughNAT(t, func(t *testing.T, _ *upstreamtest.Registry, c *upstream.Client, n *nat) {
		n.forget(true)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := c.Manifest(ctx, "app", oci.ByTag("v1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A slow registry gets one request twice, and answers the first one. Then its silence
// means nothing for a time.
func TestSlowRegistry(t *testing.T) {
	throughNAT(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, _ *nat) {
		ask := func(want int) {
			t.Helper()
			r.ResetRequests()
			first, second := upstreamtest.NewGate(), upstreamtest.NewGate()
			r.Fault(nth(1), upstreamtest.Hold(first))
			r.Fault(nth(2), upstreamtest.Hold(second))
			time.AfterFunc(3*time.Second, first.Open)
			time.AfterFunc(4*time.Second, second.Open)
			began := time.Now()
			if _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); err != nil || time.Since(began) > 3500*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			time.Sleep(2 * time.Second)
			r.ClearFaults()
			if got := len(r.Log()); got != want {
				t.Errorf("%d requests, want %d", got, want)
			}
		}
		ask(2)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1"))) // on the connection that is current now
		ask(1)
		time.Sleep(10 * time.Minute)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		ask(2)
	})
}

// nth matches one of the requests that come.
func nth(n int64) upstreamtest.Match {
	var seen atomic.Int64
	return func(*http.Request) bool { return seen.Add(1) == n }
}

// A connection that is new may be silent for as long as the read timeout allows.
func TestSlowFirstAnswer(t *testing.T) {
	inMemory(t, func(t *testing.T, network *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(network, "registry.test"))
		r.AddImage("app", "v1", []byte("layer"))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Any, upstreamtest.Hold(gate))
		time.AfterFunc(4*time.Second, gate.Open)
		c := newClient(t, r, on(network))
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		if got := len(r.Log()); got != 1 {
			t.Errorf("%d requests", got)
		}
	})
}

// However busy it is, a connection gets new requests for five minutes only, so that the
// address of the registry is looked up again. A body that is under way stays whole.
func TestConnectionAge(t *testing.T) {
	for protocol, options := range map[string][]upstreamtest.Option{"HTTP/1.1": nil, "TLS": {upstreamtest.WithTLS()}} {
		t.Run(protocol, func(t *testing.T) {
			throughNAT(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, n *nat) {
				large := r.AddRandomBlob("app", 1<<20, 1)
				body := must[oci.Blob](t)(c.Blob(t.Context(), "app", large, 0, -1))
				defer body.Close()
				verifier := large.Verifier()
				if _, err := io.CopyN(verifier, body, 100); err != nil {
					t.Fatal(err)
				}
				before := n.network.Dials(r.URL.Host)
				for range 4*60 + 50 {
					time.Sleep(time.Second)
					must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
				}
				if got := n.network.Dials(r.URL.Host); got > before+1 { // HTTP/1.1 needs a second one beside the body
					t.Errorf("%d connections in the first five minutes", got)
				}
				before = n.network.Dials(r.URL.Host)
				for range 5 * 60 {
					time.Sleep(time.Second)
					must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
				}
				if got := n.network.Dials(r.URL.Host); got != before+1 {
					t.Errorf("%d connections, want one more than %d after five minutes", got, before)
				}
				if _, err := io.Copy(verifier, body); err != nil || !verifier.Verified() {
					t.Errorf("the body that was under way: %v", err)
				}
			}, options...)
		})
	}
}
