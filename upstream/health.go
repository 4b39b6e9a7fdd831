package upstream

import (
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// reachableAfter is how long connects have to succeed before the log calls an upstream
// reachable: behind a failing load balancer every other connect does.
const reachableAfter = 10 * time.Second

// soundAfter is how long an upstream must deliver no corrupt content before the log calls
// that trouble over. It is longer than any pause for it, after which it may begin again.
const soundAfter = corruptMaxPause + rejectionTime

func (c *Client) connected() {
	c.lacking.Good()
	if c.cooldown.connected() {
		c.unreachable.Good()
	}
}

func (c *Client) connectFailed(reason error) {
	if pause := c.cooldown.connectFailed(time.Now(), reason); pause > 0 && c.unreachable.Bad() {
		c.logger.Warn("the upstream is unreachable, backing off. Check the network and the upstream's address", "upstream", c.host, "for", pause, "error", reason)
	}
}

// noteShortage notes that this machine could not make a connection. The upstream does not
// cool down for that.
func (c *Client) noteShortage(reason error) {
	if c.lacking.Bad() {
		c.logger.Error("this machine lacks a resource for connections. The upstream is not the cause", "upstream", c.host, "error", reason)
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
	pause := c.cooldown.deliveredCorrupt(time.Now(), c.rejected.count())
	if pause == 0 {
		return
	}
	// An upstream that is alone is asked anyway, and each answer begins another pause.
	if c.corrupt.Bad() {
		c.logger.Warn("the upstream delivered corrupt content repeatedly, backing off. Check its storage and any proxy between it and Weir",
			"upstream", c.host, "for", pause)
	}
	c.corrupt.Good() // unless more of it follows
}

// probe finds out, in the background, whether an unreachable registry is back.
// It does nothing if a probe is not due or is under way.
func (c *Client) probe() {
	if _, halfOpen := c.Health().Cooldown(); !halfOpen {
		return
	}
	leave, refused := c.cooldown.enter(time.Now(), place{operation: ofManifests}, true)
	if refused != nil {
		return // another request became the probe in between
	}
	go func() {
		defer leave()
		c.connect()
	}()
}

// watch probes an unreachable registry once a second, in the background, for a minute
// after the last call at most. Beside a probe that is silent, it sends the next one after
// maxSilence. It does nothing else if the registry is watched already.
func (c *Client) watch() {
	if !c.cooldown.watch(time.Now()) {
		return
	}
	go func() {
		waiting := make(chan struct{}, watchProbes) // holds a value for each probe
		var last time.Time
		for {
			goesOn, due := c.cooldown.watching(time.Now())
			if !goesOn {
				return
			}
			if due && (len(waiting) == 0 || time.Since(last) >= maxSilence && len(waiting) < watchProbes) {
				last = time.Now()
				waiting <- struct{}{}
				go func() {
					defer func() { <-waiting }()
					c.connect()
				}()
			}
			if !sleep(c.closing, watchEvery) {
				c.cooldown.endWatch()
				return
			}
		}
	}()
}

// connect asks for the root of the registry's API. Any answer will do:
// originTransport notes whether the connect worked.
func (c *Client) connect() {
	ctx, cancel := context.WithTimeoutCause(c.closing, c.timeToHeaders(), errHeaderTimeout)
	defer cancel()
	req, err := c.rootRequest(ctx)
	if err != nil {
		return
	}
	if resp, err := c.ownTransport().RoundTrip(req); err == nil {
		discard(resp.Body)
	}
}

// Health returns the registry's health as a chain asks for it.
func (c *Client) Health() Health { return clientHealth{c} }

// clientHealth is the [Health] of a client.
type clientHealth struct{ c *Client }

func (h clientHealth) Cooldown() (left time.Duration, halfOpen bool) {
	state, left := h.c.cooldown.health(time.Now())
	return left, state == stateProbing && left == 0
}

func (h clientHealth) EndCooldown() bool { return h.c.cooldown.allowEarlyProbe(time.Now()) }

func (h clientHealth) Probe(urgent bool) {
	if urgent {
		h.c.watch()
	} else {
		h.c.probe()
	}
}

func (h clientHealth) Rejected(dgst digest.Digest) bool { return h.c.rejected.has(dgst) }

// Reject counts a failed request besides the corrupt blob, whose request counted
// as successful when its headers came.
// A blob that came with a coding gets a second chance, read the other way.
func (h clientHealth) Reject(dgst digest.Digest, alone bool) {
	if h.c.readOtherwise(dgst) {
		return
	}
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
