package upstream

import (
	"context"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// operation is a kind of request that registries limit by itself. Docker Hub, for
// example, limits manifests and not blobs.
type operation uint8

const (
	ofManifests operation = iota // HEAD and GET, also of a fallback tag of referrers
	ofBlobs
	ofLists  // tags and referrers
	ofTokens // at the token service

	operations // how many there are
)

// String returns the operation as metrics and other instances name it.
func (o operation) String() string {
	switch o {
	case ofManifests:
		return opManifest
	case ofBlobs:
		return opBlob
	case ofLists:
		return "list"
	default:
		return opToken
	}
}

// Cooldowns shares between clients, of this process or of many, how long an
// operation of an upstream cools down after an answer of 429. Such a limit is one of
// an upstream (host:port), an account (the fingerprint of the credentials, empty for
// anonymous access) and an operation: "manifest", "blob", "list", or "token" followed by
// the origin of the token service. Neither method blocks.
type Cooldowns interface {
	// Limit tells all other clients until when an operation cools down.
	Limit(upstream, account, operation string, until time.Time)
	// Subscribe calls onLimit for the current limit of an operation, if any, and
	// for each new one, from any goroutine, until stop is called.
	Subscribe(upstream, account, operation string, onLimit func(until time.Time)) (stop func())
}

// maxLimitedPlaces bounds the memory for hosts other than the registry, and for clients with
// credentials of their own. A registry has one token service and a few storage hosts.
const maxLimitedPlaces = 1024

// place is one operation at one host. The zero host is the registry's own API.
// A limit of a client's own credential is that client's alone.
type place struct {
	host string // scheme, host and port
	operation
	client string // the ID of its credential; empty: the configured one is used
}

// isOwn reports whether a place is the registry's own, for the configured credentials.
func (p place) isOwn() bool { return p.host == "" && p.client == "" }

// shared returns the place as other clients know it.
func (p place) shared() string {
	if p.host == "" {
		return p.operation.String()
	}
	return p.operation.String() + " " + p.host
}

// limitTable holds the end of each rate limit. Its owner serialises the calls.
type limitTable struct {
	own    [operations]time.Time            // that of tokens stays zero
	beside *simplelru.LRU[place, time.Time] // token services, hosts that the registry redirects to, and clients
}

func newLimitTable() limitTable {
	beside, err := simplelru.NewLRU[place, time.Time](maxLimitedPlaces, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return limitTable{beside: beside}
}

// end returns the end of a place's limit, which may have passed.
func (l *limitTable) end(p place) time.Time {
	if p.isOwn() {
		return l.own[p.operation]
	}
	until, _ := l.beside.Peek(p) // of no limit: the zero time
	return until
}

// extend notes a limit. It reports false if that changes the end by less than a
// second, so concurrent answers are logged once.
func (l *limitTable) extend(p place, until time.Time) bool {
	if until.Sub(l.end(p)) < time.Second {
		return false
	}
	if p.isOwn() {
		l.own[p.operation] = until
	} else {
		l.beside.Add(p, until)
	}
	return true
}

// last returns the end of an operation's limit. That of tokens is the last one of all
// token services.
func (l *limitTable) last(op operation) time.Time {
	if op != ofTokens {
		return l.own[op]
	}
	var last time.Time
	for _, p := range l.beside.Keys() {
		if until := l.end(p); p.operation == op && p.client == "" && until.After(last) {
			last = until
		}
	}
	return last
}

// placeOf returns the place whose limit a request counts against. A host behind a
// redirect has limits of its own, and so does a storage service beside the registry's
// API on one host.
func (c *Client) placeOf(ctx context.Context, target *url.URL, op operation) place {
	client := c.loginOf(ctx).client
	switch {
	case op == ofTokens:
		return place{originOf(target), op, client}
	case c.ownAPI(target):
		return place{operation: op, client: client}
	default:
		return place{host: originOf(target), operation: op} // it gets no credential
	}
}

// admitted returns the refusal of a request to a place that cools down, nil if there
// is none.
func (c *Client) admitted(p place) *Error {
	left := c.cooldown.limitLeft(p, time.Now())
	if left <= 0 {
		return nil
	}
	return limitedError(left)
}

func limitedError(left time.Duration) *Error {
	return &Error{Class: ClassRateLimited, coolingDown: true, RetryAfter: left, Message: "no request is sent before the limit ends"}
}

// limited starts the cooldown that a 429 of a place asks for, and tells other clients of
// it if they hear of that place.
func (c *Client) limited(p place, after time.Duration) {
	until := time.Now().Add(after)
	if !c.cooldown.limit(p, until) {
		return // a concurrent answer said the same
	}
	attributes := []any{"upstream", c.host, "operation", p.operation.String(), "for", after.Round(time.Second)}
	if p.host != "" {
		attributes = append(attributes, "host", p.host)
	}
	c.logger.Warn("the upstream limits the rate of requests. Weir sends no requests of this operation until the limit ends", attributes...)
	if c.heard.has(p) {
		c.cooldowns.Limit(c.label, c.login.account(), p.shared(), until)
	}
}

// maxTokenServices bounds of how many token services the limits are shared. A registry has
// one; a hostile one could name another for each request, and fill Redis.
const maxTokenServices = 8

// hearing holds the places of whose limits a client hears from others. A host that the
// registry redirects to is none: other upstreams may redirect to it as well, and one of
// them must not stop the requests of another one.
type hearing struct {
	mu       sync.Mutex
	stops    map[place]func()
	services int
}

func (h *hearing) has(p place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stops[p] != nil
}

// admit reserves a place, and reports false if the client hears of it, or of as many token
// services as are shared.
func (h *hearing) admit(p place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stops == nil || h.stops[p] != nil || p.operation == ofTokens && h.services == maxTokenServices {
		return false
	}
	if p.operation == ofTokens {
		h.services++
	}
	h.stops[p] = func() {}
	return true
}

// keep notes how to end the hearing of a place. It reports false after end.
func (h *hearing) keep(p place, stop func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stops == nil {
		return false
	}
	h.stops[p] = stop
	return true
}

// end returns the functions that end the hearing, which does not begin again.
func (h *hearing) end() (stops map[place]func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	stops, h.stops = h.stops, nil
	return stops
}

// hearOf lets the client hear of the limits that other clients meet at a place.
func (c *Client) hearOf(p place) {
	if c.cooldowns == nil || !c.heard.admit(p) {
		return
	}
	// Under no lock, since a known limit calls the client at once.
	stop := c.cooldowns.Subscribe(c.label, c.login.account(), p.shared(), func(until time.Time) { c.limitedElsewhere(p, until) })
	if !c.heard.keep(p, stop) {
		stop() // the client was closed meanwhile
	}
}

// limitedElsewhere starts the cooldown that another client learned by a 429.
func (c *Client) limitedElsewhere(p place, until time.Time) {
	now := time.Now()
	// A shared limit is as hostile as a Retry-After header, so it has the same bound.
	if latest := now.Add(maxRetryAfter); until.After(latest) {
		until = latest
	}
	if until.After(now) && c.cooldown.limit(p, until) {
		c.logger.Info("the upstream limits the rate of requests of another client of the same account. Weir sends no requests of this operation until the limit ends",
			"upstream", c.host, "operation", p.shared(), "for", until.Sub(now).Round(time.Second))
	}
}
