package upstream_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const secondAddr = "second.test:80"

// lose takes both members away, with connects that are refused or hang, and asks until
// both have a cooldown.
func (p *pair) lose(t *testing.T, hang bool) {
	t.Helper()
	p.first.Close()
	p.second.Close()
	p.net.Hang(firstAddr, hang)
	p.net.Hang(secondAddr, hang)
	for range 3 {
		p.fails(t)
	}
}

// fails asks for a manifest and wants a failure. It returns how long that took.
func (p *pair) fails(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	_, err := p.Manifest(t.Context(), "repo", oci.ByTag("latest"))
	wantError(t, err, upstream.ErrUnavailable)
	return time.Since(start)
}

// While both members are away, one probe each second finds out whether they are back.
// No request waits for it, and many requests of many chains cause no more of them.
func TestAllMembersAwayAreProbed(t *testing.T) {
	for name, c := range map[string]struct {
		hang    bool
		outage  time.Duration
		returns string // the members that come back: "first", "second" or "both"
		dials   int    // of each member at most
	}{
		"a moment":             {false, 3 * time.Second, "both", 3 + 5},
		"the first comes back": {false, 3 * time.Second, "first", 3 + 5},
		"the second":           {false, 3 * time.Second, "second", 3 + 5},
		"longer":               {false, 45 * time.Second, "both", 3 + 47},
		"silent":               {true, 31 * time.Second, "both", 3 + 12},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				p := newPair(t, n)
				chains := []*upstream.Chain{p.Chain, upstream.NewChain(upstream.ChainOptions{}, p.b, p.a)}
				p.lose(t, c.hang)
				for start := time.Now(); time.Since(start) < c.outage; time.Sleep(200 * time.Millisecond) {
					var all sync.WaitGroup
					for i := range 20 {
						all.Go(func() {
							asked := time.Now()
							_, err := chains[i%2].Manifest(t.Context(), "repo", oci.ByTag("latest"))
							if !errors.Is(err, upstream.ErrUnavailable) || time.Since(asked) != 0 {
								t.Errorf("after %v: %v", time.Since(asked), err)
							}
						})
					}
					all.Wait()
				}
				want := p.first
				for addr, r := range map[string]*upstreamtest.Registry{firstAddr: p.first, secondAddr: p.second} {
					if c.returns == "both" || addr == c.returns+".test:80" {
						n.Hang(addr, false)
						r.Reopen()
					}
					if got := n.Dials(addr); got > c.dials {
						t.Errorf("%d connects to %s, want at most %d", got, addr, c.dials)
					}
				}
				if c.returns == "second" {
					want = p.second
				}
				time.Sleep(time.Second + time.Millisecond)
				if c.hang {
					time.Sleep(2 * time.Second) // until the last probe has failed, and the next one is due
				}
				if took := p.ask(t, want); took != 0 {
					t.Errorf("a request took %v", took)
				}
			})
		})
	}
}

// Without requests nothing is probed: neither a minute after the last request nor
// after the client is closed. The next request finds out by itself.
func TestProbesEndWithTheDemand(t *testing.T) {
	for name, closed := range map[string]bool{"demand": false, "client": true} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				p := newPair(t, n)
				p.lose(t, false)
				p.fails(t)
				if closed {
					p.a.Close()
					p.b.Close()
				}
				time.Sleep(2 * time.Minute)
				dials := n.Dials(firstAddr)
				if most := 3 + 61; dials > most || closed && dials > 5 {
					t.Errorf("%d connects", dials)
				}
				time.Sleep(10 * time.Minute)
				if got := n.Dials(firstAddr); got != dials {
					t.Errorf("%d connects without demand", got-dials)
				}
				p.first.Reopen()
				p.ask(t, p.first)
			})
		})
	}
}

// A member that is away is not probed every second while another one can answer, has
// answered or may be asked: only if all of them cool down.
func TestProbesOnlyIfAllCoolDown(t *testing.T) {
	for name, c := range map[string]struct {
		other  []upstreamtest.Effect // of the member that can be connected to
		probed bool
	}{
		"the other one delivers": {nil, false},
		"it lacks the content":   {[]upstreamtest.Effect{upstreamtest.Status(404, "")}, false},
		"it refuses":             {[]upstreamtest.Effect{upstreamtest.Status(403, "")}, false},
		"it is limited":          {[]upstreamtest.Effect{upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				p := newPair(t, n)
				p.second.Fault(upstreamtest.Any, c.other...)
				p.first.Close()
				for range 4 {
					p.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				}
				time.Sleep(5*time.Second + time.Second/2)
				synctest.Wait()
				if got := n.Dials(firstAddr); (got > 3) != c.probed || got > 3+6 {
					t.Errorf("%d connects", got)
				}
				if c.probed {
					p.first.Reopen()
					time.Sleep(time.Second + time.Millisecond)
					p.ask(t, p.first)
				}
			})
		})
	}
}
