package upstream

import (
	"fmt"
	"sync"
	"time"
)

const (
	// The circuit breaker: so many connects in a row must fail before a
	// registry rests, and so long it then does.
	breakerThreshold = 3
	breakerPause     = 10 * time.Second
	breakerMaxPause  = 60 * time.Second

	// For so many digests a registry must lately have delivered the wrong
	// bytes before it rests, and so long it then does. Content that went bad
	// in one place is no reason to do without all the rest.
	corruptThreshold = 3
	corruptPauseMin  = time.Minute
	corruptPauseMax  = 15 * time.Minute

	// earlyProbeEvery bounds how often the breaker's rest is cut short.
	earlyProbeEvery = time.Second

	// probeTime is about what a probe takes that is under way.
	probeTime = time.Second
)

// rest knows whether a registry may be asked now. It rests after an answer of
// 429 for as long as that asks for, for a while after it delivered the wrong
// bytes repeatedly, and behind a circuit breaker when it could not be connected
// to several times in a row. When the breaker's time is over, one request at a
// time probes whether the registry is back.
type cooldown struct {
	mu           sync.Mutex
	limitedUntil time.Time

	corruptUntil time.Time
	corruptPause time.Duration

	failed    int   // connects in a row
	reason    error // of the last failed connect
	pause     time.Duration
	openUntil time.Time
	probing   bool

	lastEarlyProbe time.Time // the last time that the breaker's rest was cut short
}

// enter asks for leave to send a request. It returns an error of the class that
// is remembered while the registry rests, else a function that must be called
// when the request is over.
func (c *cooldown) enter(now time.Time) (leave func(), coolingDown *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case now.Before(c.limitedUntil):
		return nil, &Error{Class: ClassRateLimited, coolingDown: true, RetryAfter: c.limitedUntil.Sub(now), Message: "not asked again before it allows that"}
	case now.Before(c.corruptUntil):
		return nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("not asked for a while after it delivered the wrong bytes repeatedly: %w", ErrDigestMismatch)}
	case c.failed < breakerThreshold:
		return func() {}, nil
	case now.Before(c.openUntil) || c.probing:
		return nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("not asked for a while after %d failed connects, the last one: %w", c.failed, c.reason)}
	default:
		c.probing = true
		return c.endProbe, nil
	}
}

// endProbe lets the next request probe. It matters where a probe ended without
// a word about the connect: its client went away.
func (c *cooldown) endProbe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probing = false
}

// connected notes that there is a connection to the registry, and reports
// whether that ends a rest.
func (c *cooldown) connected() (back bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	back = c.failed >= breakerThreshold
	c.failed, c.reason, c.pause, c.openUntil, c.probing = 0, nil, 0, time.Time{}, false
	return back
}

// connectFailed notes that the registry could not be connected to, and returns
// for how long it now rests; 0 where that changes nothing. Requests that were
// under way when the breaker opened do not prolong its rest.
func (c *cooldown) connectFailed(now time.Time, reason error) (pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	c.reason = reason
	if c.failed == breakerThreshold || c.probing {
		c.pause = min(max(2*c.pause, breakerPause), breakerMaxPause)
		c.openUntil = now.Add(c.pause)
		pause = c.pause
	}
	c.probing = false
	return pause
}

// limit lets the registry rest because it said 429, and reports whether that
// makes a difference of a second at least: answers to requests sent at the same
// time say the same.
func (c *cooldown) limit(until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.Sub(c.limitedUntil) < time.Second {
		return false
	}
	c.limitedUntil = until
	return true
}

// lied notes that the registry delivered the wrong bytes, lately for that many
// digests, and returns for how long it now rests; 0 where that changes nothing.
// Soon after such a rest one digest is enough for the next one, of twice the
// time.
func (c *cooldown) deliveredCorrupt(now time.Time, digests int) (pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.corruptUntil) > rejectionTime {
		c.corruptPause = 0
	}
	if now.Before(c.corruptUntil) || c.corruptPause == 0 && digests < corruptThreshold {
		return 0
	}
	c.corruptPause = min(max(2*c.corruptPause, corruptPauseMin), corruptPauseMax)
	c.corruptUntil = now.Add(c.corruptPause)
	return c.corruptPause
}

// allowEarlyProbe cuts a rest short for a request that nobody else can answer, and
// reports whether it did. A rate limit is not ours to cut short, and a registry
// that cannot be connected to must not cost every such request its connect
// timeout. One that lied is no danger: one more lie, and it rests for longer.
func (c *cooldown) allowEarlyProbe(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case now.Before(c.limitedUntil):
		return false
	case now.Before(c.corruptUntil):
		c.corruptUntil = now
		return true
	case c.probing || now.Sub(c.lastEarlyProbe) < earlyProbeEvery:
		return false
	}
	c.lastEarlyProbe = now
	if now.Before(c.openUntil) {
		c.openUntil = now
	}
	return true
}

// left returns how long enter is going to refuse, as far as can be said; 0 when
// it would not.
func (c *cooldown) left(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := max(0, c.limitedUntil.Sub(now), c.corruptUntil.Sub(now))
	if c.failed >= breakerThreshold {
		left = max(left, c.openUntil.Sub(now))
		if c.probing {
			left = max(left, probeTime)
		}
	}
	return left
}

// halfOpen reports whether the next request is going to be a probe.
func (c *cooldown) halfOpen(now time.Time) bool {
	c.mu.Lock()
	probe := c.failed >= breakerThreshold
	c.mu.Unlock()
	return probe && c.left(now) == 0
}
