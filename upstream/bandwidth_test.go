package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const second = 256 << 10 // bytes per second of the limits below

// bandwidth gives a client limits of bytes per second: its own, and that of all clients.
func bandwidth(own int64, all *upstream.Bandwidth) func(*upstream.Options) {
	return func(o *upstream.Options) { o.MaxBandwidth, o.Bandwidth = own, all }
}

// took returns how long something takes, in whole seconds.
func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began).Round(time.Second)
}

// The smaller limit holds for all bodies together, and no limit slows nothing.
func TestBandwidth(t *testing.T) {
	content := bytes.Repeat([]byte("bandwidth of a blob "), 5*second/20)
	dgst := digest.FromBytes(content)
	for name, c := range map[string]struct {
		own, all int64
		blobs    int
		want     time.Duration
		limit    string
	}{
		"no limit":             {0, 0, 2, 0, ""},
		"its own":              {second, 0, 1, 5 * time.Second, "upstream"},
		"its own for two":      {second, 0, 2, 10 * time.Second, "upstream"},
		"that of all":          {0, second, 2, 10 * time.Second, "global"},
		"its own is smaller":   {second, 2 * second, 1, 5 * time.Second, "upstream"},
		"that of all is lower": {4 * second, second, 1, 5 * time.Second, "global"},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test:5000"))
				r.AddBlob("app", content)
				metrics := prometheus.NewPedanticRegistry()
				client := newClient(t, r, on(n), bandwidth(c.own, upstream.NewBandwidth(c.all)), func(o *upstream.Options) { o.Metrics = upstream.NewMetrics(metrics) })
				got := took(func() {
					var all sync.WaitGroup
					for range c.blobs {
						all.Go(func() {
							if got, err := readAll(client.Blob(t.Context(), "app", dgst, 0, -1)); err != nil || !bytes.Equal(got, content) {
								t.Errorf("%d other bytes, %v", len(got), err)
							}
						})
					}
					all.Wait()
				})
				if got != c.want {
					t.Errorf("it took %v, want %v", got, c.want)
				}
				for _, limit := range []string{"upstream", "global"} {
					if slowed := series(t, metrics)["upstream_throttled_seconds_total "+limit+" registry.test:5000"]; slowed > 0 != (limit == c.limit) {
						t.Errorf("%s: bodies waited for %v s", limit, slowed)
					}
				}
			})
		})
	}
}

// throttled is a registry whose client reads a large blob at the pace of a limit.
func throttled(t *testing.T, test func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, all *upstream.Bandwidth)) {
	t.Helper()
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		large := r.AddBlob("app", make([]byte, 60*second))
		all := upstream.NewBandwidth(second)
		c := newClient(t, r, on(n), bandwidth(0, all))
		ctx, leave := context.WithCancel(t.Context())
		body := must[oci.Blob](t)(c.Blob(ctx, "app", large, 0, -1))
		ended := make(chan error)
		go func() { _, err := io.Copy(io.Discard, body); ended <- err }()
		time.Sleep(10 * time.Second)
		test(t, r, c, all)
		leave() // it waits for the limit
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		body.Close()
	})
}

// Neither a small blob nor a manifest waits for a large blob.
func TestBandwidthOfSmallContent(t *testing.T) {
	throttled(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, _ *upstream.Bandwidth) {
		r.AddImage("app", "v1", []byte("small"))
		began := time.Now()
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		readBody(t, must[oci.Blob](t)(c.Blob(t.Context(), "app", digest.FromString("small"), 0, -1)), nil)
		if time.Since(began) > 0 {
			t.Errorf("a manifest and a small blob took %v", time.Since(began))
		}
		middle := r.AddBlob("app", bytes.Repeat([]byte("m"), second/2))
		began = time.Now()
		readBody(t, must[oci.Blob](t)(c.Blob(t.Context(), "app", middle, 0, -1)), nil)
		if got := time.Since(began); got > 1200*time.Millisecond {
			t.Errorf("half of a second's bytes took %v beside one other body", got)
		}
	})
}

// A limit that changes does so for bodies under way.
func TestBandwidthChanges(t *testing.T) {
	throttled(t, func(t *testing.T, r *upstreamtest.Registry, c *upstream.Client, all *upstream.Bandwidth) {
		dgst := r.AddBlob("app", bytes.Repeat([]byte("m"), 5*second))
		body := must[oci.Blob](t)(c.Blob(t.Context(), "app", dgst, 0, -1))
		done := make(chan []byte)
		go func() { done <- readBody(t, body, nil) }()
		time.Sleep(time.Second)
		all.Set(64 << 10) // smaller turns than before
		time.Sleep(time.Second)
		synctest.Wait()
		all.Set(0)
		if got := took(func() { <-done }); got > time.Second {
			t.Errorf("it took %v without a limit", got)
		}
	})
}
