package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/weirhq/weir/internal/cooldown"
	"github.com/weirhq/weir/internal/shortage"
)

// besideHosts are the circuit breakers of the hosts that the registry leads to: its token
// services, and hosts that it redirects manifests and lists to. Such a host may be unavailable or
// hang while the registry itself answers. Storage hosts of blobs have none: a blob that
// breaks off has tries and pauses of its own (retry.go).
type besideHosts struct {
	mu    sync.Mutex
	hosts *simplelru.LRU[place, *besideHost]
}

// besideHost is the health of one host.
type besideHost struct {
	breaker cooldown.Breaker
	answers int       // so far
	reason  error     // of the last failure
	probes  int       // how many began so far
	probed  time.Time // when the last one began
}

func newBesideHosts() *besideHosts {
	hosts, err := simplelru.NewLRU[place, *besideHost](maxLimitedPlaces, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &besideHosts{hosts: hosts}
}

// attempt is a request to such a host.
type attempt struct {
	host    *besideHost
	answers int // of the host, before the request
	probe   int // the number of the probe that the request is; 0: it is none
}

// enter begins a request, or refuses it while the host is unavailable. One request each
// breakerPause finds out whether the host is back, even while an earlier one is silent.
func (b *besideHosts) enter(p place, now time.Time) (attempt, *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.hosts.Get(p)
	if !ok {
		// The pause does not grow: no other probe notices the return.
		h = &besideHost{breaker: cooldown.New(cooldown.Options{Threshold: breakerThreshold, Pause: breakerPause})}
		b.hosts.Add(p, h)
	}
	if h.breaker.Probing() && now.Sub(h.probed) >= breakerPause {
		h.breaker.Abandon()
	}
	a := attempt{host: h, answers: h.answers}
	allowed, probe := h.breaker.Allow(now)
	if !allowed {
		return a, &Error{Class: ClassUnavailable, coolingDown: true,
			Err: fmt.Errorf("backing off after %d failures to reach %s, the last one: %w", h.breaker.Failures(), p.host, h.reason)}
	}
	if probe {
		h.probes++
		h.probed, a.probe = now, h.probes
	}
	return a, nil
}

// leave ends a request. A failure counts if the host gave no answer to any request
// meanwhile. It returns the pause that begins now, or 0.
func (b *besideHosts) leave(a attempt, now time.Time, answered bool, failure error) (pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch h := a.host; {
	case answered:
		h.answers++
		h.breaker.Success()
	case failure != nil && h.answers == a.answers:
		h.reason = failure
		pause, _ = h.breaker.Failure(now)
	case a.probe > 0 && a.probe == h.probes:
		h.breaker.Abandon()
	}
	return pause
}

// sendBeside sends a request to a place. If that is a host beside the registry's own API,
// and away, sendBeside returns an *Error at once.
func (c *Client) sendBeside(req *http.Request, p place, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	if p.host == "" || p.operation == ofBlobs {
		return send(req)
	}
	p.client = "" // a host that is unavailable is so for all clients
	a, refused := c.beside.enter(p, time.Now())
	if refused != nil {
		return nil, refused
	}
	resp, err := send(req)
	failed, broken := err.(*transportError)
	answered := err == nil || broken && failed.connected && !isTimeout(failed.err)
	var failure error
	if broken && !answered && shortage.Of(failed.err) == nil && ours(context.Cause(req.Context()), p) {
		failure = failed
	}
	if pause := c.beside.leave(a, time.Now(), answered, failure); pause > 0 {
		c.logger.Warn("a host that the upstream refers to is unreachable, backing off. Check the network and that host",
			"upstream", c.host, "host", p.host, "for", pause, "error", failure)
	}
	return resp, err
}

// ours reports whether a request to a place ended by itself or by a time limit of Weir's,
// and not because its client has left. The context of a token has no limit of a client's.
func ours(cause error, p place) bool {
	return cause == nil || cause == errHeaderTimeout || p.operation == ofTokens && cause == context.DeadlineExceeded
}
