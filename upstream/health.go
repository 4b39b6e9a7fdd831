package upstream

import (
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tokencache"
)

// Cooldowns shares between clients, of this process or of many, how long
// upstreams cool down after an answer of 429. Such a limit is one of an upstream
// (host:port) and an account: the fingerprint of the credentials, empty for
// anonymous access. Neither method blocks.
type Cooldowns interface {
	// Limit tells all other clients until when an upstream cools down.
	Limit(upstream, account string, until time.Time)
	// Subscribe calls onLimit for the current limit, if any, and for each new
	// one, from any goroutine, until stop is called.
	Subscribe(upstream, account string, onLimit func(until time.Time)) (stop func())
}

// account names the credentials without revealing them.
func (c *Client) account() string {
	return tokencache.Fingerprint(c.credentials.username, c.credentials.password)
}

// limited starts the cooldown that a 429 asks for, and shares it.
func (c *Client) limited(after time.Duration) {
	until := time.Now().Add(after)
	if !c.cooldown.limit(until) {
		return // a concurrent answer said the same
	}
	c.logger.Warn("the upstream limits the rate of requests. Weir sends none until the limit ends", "upstream", c.host, "for", after.Round(time.Second))
	if c.cooldowns != nil {
		c.cooldowns.Limit(c.label, c.account(), until)
	}
}

// limitedElsewhere starts the cooldown that another client was told with a 429.
func (c *Client) limitedElsewhere(until time.Time) {
	now := time.Now()
	// A shared limit is as hostile as a Retry-After header, so it has the same bound.
	if latest := now.Add(maxRetryAfter); until.After(latest) {
		until = latest
	}
	if until.After(now) && c.cooldown.limit(until) {
		c.logger.Info("the upstream limits the rate of requests of another client of the same account. Weir sends none until the limit ends", "upstream", c.host, "for", until.Sub(now).Round(time.Second))
	}
}

func (c *Client) connected() {
	if c.cooldown.connected() {
		c.logger.Info("the upstream is reachable again", "upstream", c.host)
	}
}

func (c *Client) connectFailed(reason error) {
	if pause := c.cooldown.connectFailed(time.Now(), reason); pause > 0 {
		c.logger.Warn("the upstream is unreachable, backing off. Check the network and the upstream's address", "upstream", c.host, "for", pause, "error", reason)
	}
}

const (
	// maxRejections bounds the memory. A registry with more corrupt blobs cools
	// down anyway.
	maxRejections = 1024
	// rejectionTime is how long a registry is asked last for a digest: long
	// enough for the retries of one pull, and short enough for a repaired blob.
	rejectionTime = 10 * time.Minute
)

// reject notes that the registry delivered corrupt content for a digest.
func (c *Client) reject(dgst digest.Digest) {
	c.rejected.add(dgst)
	if pause := c.cooldown.deliveredCorrupt(time.Now(), c.rejected.count()); pause > 0 {
		c.logger.Warn("the upstream delivered corrupt content repeatedly, backing off. Check its storage, and any proxy between it and Weir",
			"upstream", c.host, "for", pause)
	}
}

// probe finds out, in the background, whether an unreachable registry is back.
// It does nothing if a probe is not due or is under way.
func (c *Client) probe() {
	if _, halfOpen := c.Health().Cooldown(); !halfOpen {
		return
	}
	leave, refused := c.cooldown.enter(time.Now())
	if refused != nil {
		return // another request became the probe in between
	}
	go func() {
		defer leave()
		ctx, cancel := context.WithTimeoutCause(c.closing, c.timeToHeaders(), errHeaderTimeout)
		defer cancel()
		req, err := c.rootRequest(ctx)
		if err != nil {
			return
		}
		// Any answer will do: originTransport notes whether the connect worked.
		if resp, err := c.transport(req.URL).RoundTrip(req); err == nil {
			discard(resp.Body)
		}
	}()
}

// Health returns the registry's health as a chain asks for it.
func (c *Client) Health() Health { return clientHealth{c} }

// clientHealth is the [Health] of a client.
type clientHealth struct{ c *Client }

func (h clientHealth) Cooldown() (left time.Duration, halfOpen bool) {
	state, left := h.c.cooldown.status(time.Now())
	return left, state == stateProbing && left == 0
}

func (h clientHealth) EndCooldown() bool { return h.c.cooldown.allowEarlyProbe(time.Now()) }

func (h clientHealth) Probe() { h.c.probe() }

func (h clientHealth) Rejected(dgst digest.Digest) bool { return h.c.rejected.has(dgst) }

// Reject counts a failed request besides the corrupt blob, whose request counted
// as successful when its headers came.
func (h clientHealth) Reject(dgst digest.Digest, alone bool) {
	if alone {
		h.c.reject(dgst)
	} else {
		h.c.rejected.add(dgst) // and no cooldown: the fault may be another member's
	}
	h.c.metrics.broken(opBlob)
	h.c.metrics.mismatch()
}

func (h clientHealth) Broken(ctx context.Context, repo string, dgst digest.Digest, cause error) error {
	return h.c.badAnswer(ctx, blobCall(http.MethodGet, repo, dgst, ""), cause)
}

// rootRequest asks for the root of the registry's API (distribution-spec end-1),
// which is above the URL's path.
func (c *Client) rootRequest(ctx context.Context) (*http.Request, error) {
	target := *c.url
	target.Path, target.RawPath = c.root, ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err == nil {
		c.setCommonHeaders(req)
	}
	return req, err
}
