package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A token service or the host behind a redirect that hangs, or is away, gets one request
// each ten seconds after three failures. Requests that do not need it go on.
func TestHostsBesideTheRegistry(t *testing.T) {
	hold := func() upstreamtest.Effect { return upstreamtest.Hold(upstreamtest.NewGate()) }
	for name, c := range map[string]struct {
		redirect bool // else a token service
		fault    func() upstreamtest.Effect
		patience time.Duration
		opens    bool
	}{
		"a token service hangs":               {false, hold, time.Hour, true},
		"it hangs, and the clients leave":     {false, hold, time.Second, false},
		"it is broken":                        {false, func() upstreamtest.Effect { return upstreamtest.Status(500, "") }, time.Hour, false},
		"it drops connections":                {false, upstreamtest.Drop, time.Hour, false},
		"a redirect's host hangs":             {true, hold, time.Hour, true},
		"that hangs, and the clients leave":   {true, hold, time.Second, false},
		"a redirect's host refuses":           {true, func() upstreamtest.Effect { return upstreamtest.Status(403, "") }, time.Hour, false},
		"a redirect's host drops connections": {true, upstreamtest.Drop, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				far := upstreamtest.New(t, upstreamtest.WithNetwork(n, "far.test"))
				options, match := []upstreamtest.Option{upstreamtest.WithNetwork(n, "registry.test")}, upstreamtest.Tokens
				if c.redirect {
					options, match = append(options, upstreamtest.WithRedirect(far)), upstreamtest.Manifests
				} else {
					options = append(options, upstreamtest.WithBearer(upstreamtest.Bearer{}))
				}
				r := upstreamtest.New(t, options...)
				for i := range 10 {
					r.AddImage(fmt.Sprint("repo", i), "latest", []byte("layer"))
					far.AddImage(fmt.Sprint("repo", i), "latest", []byte("layer"))
				}
				client := newClient(t, r, on(n))
				ask := func(i int, patience time.Duration) error {
					ctx, leave := context.WithTimeout(t.Context(), patience)
					defer leave()
					_, err := client.Manifest(ctx, fmt.Sprint("repo", i), oci.ByTag("latest"))
					return err
				}
				at := r
				if c.redirect {
					at = far
				}
				fault := at.Fault(match, c.fault())
				var clients sync.WaitGroup
				for i := range 5 {
					clients.Go(func() { ask(i, c.patience) })
				}
				clients.Wait()
				time.Sleep(5 * time.Second) // the flights of tokens have ended
				began := time.Now()
				err := ask(6, time.Second)
				opened := errors.Is(err, upstream.ErrUnavailable) && time.Since(began) == 0 && strings.Contains(err.Error(), "backing off")
				if opened != c.opens {
					t.Errorf("refused: %v, want %v: %v", opened, c.opens, err)
				}
				time.Sleep(2 * time.Minute)
				fault.Remove()
				for back := time.Now(); ask(7, time.Hour) != nil; time.Sleep(time.Second) {
					if time.Since(back) > 25*time.Second {
						t.Fatal("it is not found")
					}
				}
				if err := ask(8, time.Hour); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
