package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// connections lets a client have n connections at once.
func connections(n int) func(*upstream.Options) {
	return func(o *upstream.Options) { o.MaxConnections = n }
}

// limited is a registry with blobs of the name of their content, and a client with one
// connection to it.
type limited struct {
	*upstreamtest.Registry
	client *upstream.Client
}

func newLimited(t *testing.T, n *upstreamtest.Network, change ...func(*upstream.Options)) *limited {
	t.Helper()
	l := &limited{Registry: upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))}
	l.AddImage("app", "v1", []byte("layer"))
	l.AddBlob("app", []byte("first"))
	l.client = newClient(t, l.Registry, append([]func(*upstream.Options){on(n), connections(1)}, change...)...)
	return l
}

// take opens a blob, whose body has the connection until it is closed.
func (l *limited) take(t *testing.T) oci.Blob {
	t.Helper()
	return must[oci.Blob](t)(l.client.Blob(t.Context(), "app", digest.FromString("first"), 0, -1))
}

// blob pulls a blob for a block in the background, and waits until it waits.
func (l *limited) blob(ctx context.Context, block, content string) {
	dgst := l.AddBlob("app", []byte(content))
	chain := upstream.NewChain(upstream.ChainOptions{Block: block}, l.client)
	go func() {
		readAll(chain.Blob(ctx, "app", dgst, 0, -1)) //nolint:errcheck // the registry tells which requests came
	}()
	synctest.Wait()
}

// tag asks for a manifest likewise.
func (l *limited) tag(ctx context.Context, block string) {
	chain := upstream.NewChain(upstream.ChainOptions{Block: block}, l.client)
	go func() {
		chain.Manifest(ctx, "app", oci.ByTag("v1")) //nolint:errcheck // likewise
	}()
	synctest.Wait()
}

// A body has its connection until it ends, whatever the protocol. Requests beyond the limit
// are sent when a connection is free.
func TestConnectionLimit(t *testing.T) {
	for protocol, options := range map[string][]upstreamtest.Option{"HTTP/1.1": nil, "TLS": {upstreamtest.WithTLS()}} {
		t.Run(protocol, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(options, upstreamtest.WithNetwork(n, "registry.test"))...)
				r.AddImage("app", "v1", []byte("layer"))
				dgst := r.AddBlob("app", blob)
				metrics := prometheus.NewPedanticRegistry()
				c := newClient(t, r, on(n), connections(2), func(o *upstream.Options) {
					o.Metrics = upstream.NewMetrics(metrics)
					if r.URL.Scheme == "https" {
						o.RootCAs = r.RootCAs()
					}
				})
				open := func() oci.Blob { return must[oci.Blob](t)(c.Blob(t.Context(), "app", dgst, 0, -1)) }
				read, closed := open(), open()
				done := make(chan error, 2)
				for range 2 {
					go func() { _, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); done <- err }()
				}
				time.Sleep(20 * time.Second) // four times the read timeout
				if got := r.Requests(); len(got) != 2 {
					t.Fatalf("with two bodies open the registry was asked %q", got)
				}
				values := series(t, metrics)
				for state, want := range map[string]float64{"busy": 2, "waiting": 2, "max": 2} {
					if got := values["upstream_connections "+state+" "+hostOf(r)]; got != want {
						t.Errorf("%s: %v, want %v", state, got, want)
					}
				}
				closed.Close()
				if err := errors.Join(<-done, <-done); err != nil { // one after the other
					t.Error(err)
				}
				if got := readBody(t, read, nil); string(got) != string(blob) {
					t.Errorf("%d other bytes", len(got))
				}
				values = series(t, metrics)
				if got := values["upstream_connection_wait_seconds_total "+hostOf(r)]; got < 40 || got > 41 {
					t.Errorf("two requests waited for %v s, want 40", got)
				}
				if took := durations(t, metrics); took > 1 {
					t.Errorf("the answers took %v s, with the waits for connections", took)
				}
				for _, state := range []string{"busy", "waiting"} {
					if got := values["upstream_connections "+state+" "+hostOf(r)]; got != 0 {
						t.Errorf("%s: %v after all requests have ended", state, got)
					}
				}
			})
		})
	}
}

// durations returns the time that all answers took together, by the metrics, in seconds.
func durations(t *testing.T, registry *prometheus.Registry) (sum float64) {
	t.Helper()
	for _, family := range must[[]*dto.MetricFamily](t)(registry.Gather()) {
		for _, m := range family.GetMetric() {
			if family.GetName() == "weir_upstream_request_duration_seconds" {
				sum += m.GetHistogram().GetSampleSum()
			}
		}
	}
	return sum
}

// hostOf returns host and port of a registry, as metrics name it.
func hostOf(r *upstreamtest.Registry) string {
	if r.URL.Port() != "" {
		return r.URL.Host
	}
	return r.URL.Host + ":" + map[string]string{"http": "80", "https": "443"}[r.URL.Scheme]
}

// Blocks take turns, and within a block blobs and other requests do.
func TestConnectionsTakeTurns(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := newLimited(t, n)
		first := l.take(t)
		ctx, leave := context.WithCancel(t.Context())
		l.blob(ctx, "busy", "left")
		for i := range 3 {
			l.blob(t.Context(), "busy", fmt.Sprintf("busy %d", i))
		}
		l.tag(t.Context(), "busy")
		l.tag(t.Context(), "busy")
		l.blob(t.Context(), "quiet", "quiet")
		leave()
		l.ResetRequests()
		first.Close()
		synctest.Wait()
		var want []string
		for _, name := range []string{"", "quiet", "busy 0", "", "busy 1", "busy 2"} {
			path := "/v2/app/blobs/" + digest.FromString(name).String()
			if name == "" {
				path = "/v2/app/manifests/v1"
			}
			want = append(want, "GET "+path+" 200")
		}
		if diff := cmp.Diff(want, l.Requests()); diff != "" {
			t.Error(diff)
		}
	})
}

// A wait is bounded, and is no failure of the registry. The client
// that leaves has its own error.
func TestConnectionWaitEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := newLimited(t, n)
		held := l.take(t)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := l.client.Manifest(ctx, "app", oci.ByTag("v1")); err != context.DeadlineExceeded {
			t.Errorf("a client that left: %v", err)
		}
		for range 5 { // as many as open a circuit breaker
			began := time.Now()
			_, err := l.client.Manifest(t.Context(), "app", oci.ByTag("v1"))
			if wantError(t, err, upstream.ErrUnavailable); !strings.Contains(err.Error(), "the limit of 1 connections to registry.test:80 was reached for 30s") {
				t.Error(err)
			}
			if took := time.Since(began); took != 30*time.Second {
				t.Errorf("it waited for %v", took)
			}
		}
		began := time.Now()
		if _, err := l.client.Blob(t.Context(), "app", digest.FromString("layer"), 0, -1); !errors.Is(err, upstream.ErrUnavailable) || time.Since(began) != 5*time.Minute {
			t.Errorf("a blob waited for %v: %v", time.Since(began), err)
		}
		held.Close()
		if _, err := l.client.Manifest(t.Context(), "app", oci.ByTag("v1")); err != nil {
			t.Error(err)
		}
	})
}

// A registry that does not answer is found out although its clients wait for connections.
func TestLimitedRegistryHangs(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := newLimited(t, n)
		l.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				_, err := l.client.Manifest(t.Context(), "app", oci.ByTag("v1"))
				if !errors.Is(err, upstream.ErrUnavailable) || strings.Contains(err.Error(), "limit") {
					t.Error(err)
				}
			})
		}
		all.Wait()
		l.ClearFaults()
	})
}

// The time limit of all tries goes on when a request has got its connection.
func TestTimeLimitAfterConnectionWait(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := newLimited(t, n)
		held := l.take(t)
		slow, never := upstreamtest.NewGate(), upstreamtest.NewGate()
		l.Fault(upstreamtest.Manifests, upstreamtest.Status(503, ""), upstreamtest.Hold(slow))
		began := time.Now()
		ended := make(chan error)
		go func() {
			_, err := l.client.Manifest(t.Context(), "app", oci.ByTag("v1"))
			ended <- err
		}()
		time.Sleep(time.Second)
		held.Close()
		time.Sleep(3 * time.Second)
		l.ClearFaults()
		l.Fault(upstreamtest.Manifests, upstreamtest.Hold(never))
		slow.Open()
		wantError(t, <-ended, upstream.ErrUnavailable)
		if took := time.Since(began); took != (1+7)*time.Second {
			t.Errorf("a request that had waited for 1 s ended after %v", took)
		}
		never.Open()
	})
}

// A request whose token waits for a connection says so, and blames no silence.
func TestTokenWaitsForConnection(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := &limited{Registry: upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{OnRegistry: true}))}
		l.AddBlob("app", []byte("first"))
		l.AddImage("other", "v1", []byte("layer"))
		l.client = newClient(t, l.Registry, on(n), connections(1))
		held := l.take(t)
		ended := make(chan error)
		go func() {
			_, err := l.client.Manifest(t.Context(), "other", oci.ByTag("v1"))
			ended <- err
		}()
		synctest.Wait()
		next := make(chan oci.Blob)
		go func() { next <- l.take(t) }() // gets the connection after the manifest's challenge
		synctest.Wait()
		held.Close()
		defer (<-next).Close()
		err := <-ended
		if wantError(t, err, upstream.ErrUnavailable); !strings.Contains(err.Error(), "the limit of 1 connections to registry.test:80 was reached for 7s") {
			t.Error(err)
		}
	})
}

// A connection that becomes free as its next request gives up is not lost.
func TestConnectionFreeAtEndOfWait(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		l := newLimited(t, n)
		for range 100 {
			held := l.take(t)
			time.AfterFunc(30*time.Second, func() { held.Close() })
			l.client.Manifest(t.Context(), "app", oci.ByTag("v1")) //nolint:errcheck // either is right
			synctest.Wait()
		}
	})
}

// Bytes of a storage host that the registry redirects to have no connection to the registry.
// Challenges and tokens need no second one.
func TestConnectionsElsewhere(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithCDN(upstreamtest.CDN{}), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		r.AddImage("app", "v1", []byte("layer"))
		dgst := r.AddBlob("app", blob)
		c := newClient(t, r, on(n), connections(1), func(o *upstream.Options) { o.AllowPrivateRedirects = true })
		began := time.Now()
		for range 3 {
			body := must[oci.Blob](t)(c.Blob(t.Context(), "app", dgst, 0, -1))
			defer body.Close()
		}
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if got := r.CDNRequests(); len(got) != 3 {
			t.Errorf("the storage host was asked %q", got)
		}
	})
}

// A segment that gets no connection is not waited for.
func TestSegmentsDoNotWaitForConnections(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.example"))
		s := newSegmented(t, r, on(n), connections(2))
		if got := s.whole(t); got != 2 {
			t.Errorf("%d streams for two connections", got)
		}
		one := must[oci.Blob](t)(s.client.Blob(t.Context(), "app", s.dgst, 0, -1))
		two := must[oci.Blob](t)(s.client.Blob(t.Context(), "app", s.dgst, 0, -1))
		began := time.Now()
		if _, err := s.segment(t.Context()); !errors.Is(err, oci.ErrNoRange) || time.Since(began) != 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		one.Close()
		b, err := s.segment(t.Context())
		readBody(t, b, err)
		two.Close()
	})
}

// A connection that has gone silent is replaced by another one, within the limit.
func TestSilentConnectionOfLimit(t *testing.T) {
	inMemory(t, func(t *testing.T, network *upstreamtest.Network) {
		nat := &nat{network: network}
		l := newLimited(t, network, func(o *upstream.Options) { o.DialContext = nat.dial })
		must[*oci.Manifest](t)(l.client.Manifest(t.Context(), "app", oci.ByTag("v1")))
		nat.forget(false)
		l.ResetRequests()
		began := time.Now()
		must[*oci.Manifest](t)(l.client.Manifest(t.Context(), "app", oci.ByTag("v1")))
		if took := time.Since(began); took > 2*time.Second || len(l.Requests()) != 1 {
			t.Errorf("after %v the registry was asked %q", took, l.Requests())
		}
		gate := upstreamtest.NewGate()
		l.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		l.ResetRequests()
		done := make(chan error)
		go func() { _, err := l.client.Manifest(t.Context(), "app", oci.ByTag("v1")); done <- err }()
		time.Sleep(4 * time.Second) // the second request is as slow as the first one
		gate.Open()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := network.Dials(l.URL.Host); n != 3 {
			t.Errorf("%d connections, want three, one after the other", n)
		}
	})
}

// Whatever happens to requests, their connections are given back.
func TestConnectionsComeBack(t *testing.T) {
	for name, effect := range map[string]upstreamtest.Effect{
		"404": upstreamtest.Status(404, ""), "429": upstreamtest.Status(429, ""), "500": upstreamtest.Status(500, ""), "cut": upstreamtest.CutAfter(3),
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				l := newLimited(t, n)
				fault := l.Fault(upstreamtest.Any, effect)
				for range 2 {
					l.client.Manifest(t.Context(), "app", oci.ByTag("v1"))
					l.client.Head(t.Context(), "app", oci.ByTag("v1"))
					l.client.Tags(t.Context(), "app", nil)
					l.client.StatBlob(t.Context(), "app", digest.FromString("first"))
					if b, err := l.client.Blob(t.Context(), "app", digest.FromString("first"), 0, -1); err == nil {
						io.Copy(io.Discard, b)
						b.Close()
					}
				}
				fault.Remove()
				time.Sleep(2 * time.Hour) // all cooldowns end
				l.ResetRequests()
				began := time.Now()
				must[*oci.Manifest](t)(l.client.Manifest(t.Context(), "app", oci.ByTag("v1")))
				if took := time.Since(began); took > time.Second || !slices.Contains(l.Requests(), http.MethodGet+" /v2/app/manifests/v1 200") {
					t.Errorf("it took %v: %q", took, l.Requests())
				}
			})
		})
	}
}

// A registry that hides content from anonymous clients is asked for its challenge while its
// refusal is still open. With one connection that takes no wait.
func TestConnectionOfRootChallenge(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("user", "secret"), upstreamtest.WithHiddenContent(http.StatusNotFound))
		r.AddImage("app", "v1", []byte("layer"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusNotFound, strings.Repeat("a long page ", 100<<10))).Times(1)
		c := newClient(t, r, on(n), connections(1), func(o *upstream.Options) { o.Username, o.Password = "user", "secret" })
		began := time.Now()
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v: %q", took, r.Requests())
		}
	})
}
