package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A registry that accepts requests and answers none is unreachable. A registry that
// answers, however badly, is not.
func TestHangingRegistry(t *testing.T) {
	slow := upstreamtest.Path("/manifests/slow")
	for name, c := range map[string]struct {
		hangs   upstreamtest.Match
		effects []upstreamtest.Effect // of the others
		beside  bool                  // other requests are sent meanwhile
		patient bool                  // the clients wait for the time limit
		opens   bool
	}{
		"all of it hangs":                 {upstreamtest.Any, nil, true, true, true},
		"all of it hangs, and is left":    {upstreamtest.Any, nil, true, false, false},
		"manifests hang, alone":           {upstreamtest.Manifests, nil, false, true, true},
		"one manifest hangs":              {slow, nil, true, true, false},
		"one hangs, the rest is missing":  {slow, []upstreamtest.Effect{upstreamtest.Status(404, "")}, true, true, false},
		"one hangs, the rest is broken":   {slow, []upstreamtest.Effect{upstreamtest.Status(500, "")}, true, true, false},
		"one hangs, the rest is refused":  {slow, []upstreamtest.Effect{upstreamtest.Status(403, "")}, true, true, false},
		"one hangs, the rest is moved on": {slow, []upstreamtest.Effect{upstreamtest.Status(302, "")}, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("layer"))
				client := newClient(t, r, on(n))
				r.Fault(func(req *http.Request) bool { return !c.hangs(req) }, c.effects...)
				hang := r.Fault(c.hangs, upstreamtest.Hold(upstreamtest.NewGate()))
				patience := time.Minute
				if !c.patient {
					patience = 4 * time.Second // the time limit is 5 s
				}
				var clients sync.WaitGroup
				for range 5 {
					clients.Go(func() {
						ctx, leave := context.WithTimeout(t.Context(), patience)
						defer leave()
						client.Manifest(ctx, "repo", oci.ByTag("slow"))
					})
				}
				synctest.Wait()
				for range 3 { // each one begins and ends while the others wait
					time.Sleep(time.Second)
					if c.beside {
						clients.Go(func() {
							ctx, leave := context.WithTimeout(t.Context(), patience)
							defer leave()
							client.Manifest(ctx, "repo", oci.ByTag("latest"))
						})
					}
				}
				clients.Wait()
				began := time.Now()
				ctx, leave := context.WithTimeout(t.Context(), time.Second)
				defer leave()
				_, err := client.Manifest(ctx, "repo", oci.ByTag("slow"))
				opened := errors.Is(err, upstream.ErrUnavailable) && time.Since(began) == 0
				if opened != c.opens {
					t.Errorf("unreachable: %v, want %v: %v", opened, c.opens, err)
				}
				hang.Remove()
			})
		})
	}
}

// A registry that hung is found soon after it answers again, although the probes that it
// got before are never answered.
func TestHangingRegistryComesBack(t *testing.T) {
	for _, outage := range []time.Duration{time.Second, 15 * time.Second, 5 * time.Minute} {
		t.Run(fmt.Sprint(outage), func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("layer"))
				chain := alone(newClient(t, r, on(n), func(o *upstream.Options) { o.ReadTimeout = time.Minute }))
				ask := func() error {
					_, err := chain.Manifest(t.Context(), "repo", oci.ByTag("latest"))
					return err
				}
				hang := r.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
				var clients sync.WaitGroup
				for range 64 {
					clients.Go(func() { ask() })
				}
				clients.Wait()
				began := time.Now()
				for time.Since(began) < outage {
					asked := time.Now()
					if err := ask(); err == nil || time.Since(asked) != 0 {
						t.Fatalf("%v after %v", err, time.Since(asked))
					}
					time.Sleep(time.Second)
				}
				if most, got := 64+8*(1+int(outage/time.Minute)), n.Dials("registry.test:80"); got > most {
					t.Errorf("%d connects, want at most %d", got, most)
				}
				hang.Remove()
				back := time.Now()
				for ask() != nil {
					if time.Sleep(100 * time.Millisecond); time.Since(back) > 12*time.Second {
						t.Fatal("it is not found")
					}
				}
			})
		})
	}
}
