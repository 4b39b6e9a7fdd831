package upstream

import (
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tokencache"
)

// Cooldowns shares between clients, of this process or of many, how long upstreams
// want to be left alone after an answer of 429. Such a limit is one of an
// upstream (host:port) and an account, the fingerprint of the credentials, which
// is empty for the anonymous one. Neither method waits for anything.
type Cooldowns interface {
	// Limit tells everyone else until when an upstream rests.
	Limit(upstream, account string, until time.Time)
	// Subscribe lets onLimit be called, from any goroutine, whenever someone
	// tells of such a rest, and for one that is known already.
	Subscribe(upstream, account string, onLimit func(until time.Time)) (stop func())
}

// account names the credentials, without telling them.
func (c *Client) account() string {
	return tokencache.Fingerprint(c.credentials.username, c.credentials.password)
}

// limited lets the registry rest, here and everywhere else, after it said 429.
func (c *Client) limited(after time.Duration) {
	until := time.Now().Add(after)
	if !c.cooldown.limit(until) {
		return
	}
	c.logger.Warn("the upstream limits the rate of requests, and is not asked for a while", "upstream", c.host, "for", after.Round(time.Second))
	if c.cooldowns != nil {
		c.cooldowns.Limit(c.label, c.account(), until)
	}
}

// limitedElsewhere lets the registry rest after it said 429 to somebody else.
func (c *Client) limitedElsewhere(until time.Time) {
	now := time.Now()
	if latest := now.Add(maxRetryAfter); until.After(latest) {
		until = latest
	}
	if until.After(now) && c.cooldown.limit(until) {
		c.logger.Info("the upstream limits the rate of another client's requests, and is not asked for a while", "upstream", c.host, "for", until.Sub(now).Round(time.Second))
	}
}

func (c *Client) connected() {
	if c.cooldown.connected() {
		c.logger.Info("the upstream can be connected to again", "upstream", c.host)
	}
}

func (c *Client) connectFailed(reason error) {
	if pause := c.cooldown.connectFailed(time.Now(), reason); pause > 0 {
		c.logger.Warn("the upstream cannot be connected to, and is not asked for a while", "upstream", c.host, "for", pause, "error", reason)
	}
}

// reject notes that the registry delivered the wrong bytes for a digest.
func (c *Client) reject(dgst digest.Digest) {
	c.rejected.add(dgst)
	if pause := c.cooldown.deliveredCorrupt(time.Now(), c.rejected.count()); pause > 0 {
		c.logger.Warn("the upstream delivered the wrong bytes repeatedly, and is not asked for a while: what it has, or what is between, is broken",
			"upstream", c.host, "for", pause)
	}
}

// probe finds out, in the background, whether a registry is back that could not
// be connected to. It does nothing while that is not due, or somebody else's
// request is about to tell.
func (c *Client) probe() {
	if !c.cooldown.halfOpen(time.Now()) {
		return
	}
	leave, coolingDown := c.cooldown.enter(time.Now())
	if coolingDown != nil {
		return
	}
	go func() {
		defer leave()
		ctx, cancel := context.WithTimeoutCause(c.closing, c.timeToHeaders(), errHeaderTimeout)
		defer cancel()
		req, err := c.rootRequest(ctx)
		if err != nil {
			return
		}
		// What the answer says does not matter, and what the connect says is
		// noted on the way.
		if resp, err := c.transport(req.URL).RoundTrip(req); err == nil {
			discard(resp.Body)
		}
	}()
}

// rootRequest asks for the root of the registry's API (distribution-spec end-1),
// which is above the URL's path.
func (c *Client) rootRequest(ctx context.Context) (*http.Request, error) {
	target := *c.url
	target.Path = "/v2/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err == nil {
		c.setCommonHeaders(req)
	}
	return req, err
}
