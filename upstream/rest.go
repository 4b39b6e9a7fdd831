package upstream

import (
	"fmt"
	"sync"
	"time"
)

// The circuit breaker: so many connects in a row must fail before a registry
// rests, and so long it then does.
const (
	breakerThreshold = 3
	breakerRest      = 10 * time.Second
	breakerMaxRest   = 60 * time.Second
)

// rest knows whether a registry may be asked now. It rests after an answer of
// 429 for as long as that asks for, and behind a circuit breaker when it could
// not be connected to several times in a row. When the breaker's time is over,
// one request at a time probes whether the registry is back.
type rest struct {
	mu           sync.Mutex
	limitedUntil time.Time
	failed       int   // connects in a row
	reason       error // of the last failed connect
	pause        time.Duration
	openUntil    time.Time
	probing      bool
}

// enter asks for leave to send a request. It returns an error of the class that
// is remembered while the registry rests, else a function that must be called
// when the request is over.
func (r *rest) enter(now time.Time) (leave func(), resting *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case now.Before(r.limitedUntil):
		return nil, &Error{Class: ClassRateLimited, RetryAfter: r.limitedUntil.Sub(now), Message: "not asked again before it allows that"}
	case r.failed < breakerThreshold:
		return func() {}, nil
	case now.Before(r.openUntil) || r.probing:
		return nil, &Error{Class: ClassUnavailable, Err: fmt.Errorf("not asked for a while after %d failed connects, the last one: %w", r.failed, r.reason)}
	default:
		r.probing = true
		return r.endProbe, nil
	}
}

// endProbe lets the next request probe. It matters where a probe ended without
// a word about the connect: its client went away.
func (r *rest) endProbe() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probing = false
}

// connected notes that there is a connection to the registry.
func (r *rest) connected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.reason, r.pause, r.openUntil, r.probing = 0, nil, 0, time.Time{}, false
}

// connectFailed notes that the registry could not be connected to. Requests
// that were under way when the breaker opened do not prolong its rest.
func (r *rest) connectFailed(now time.Time, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
	r.reason = reason
	if r.failed == breakerThreshold || r.probing {
		r.pause = min(max(2*r.pause, breakerRest), breakerMaxRest)
		r.openUntil = now.Add(r.pause)
	}
	r.probing = false
}

// limit lets the registry rest because it said 429.
func (r *rest) limit(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until.After(r.limitedUntil) {
		r.limitedUntil = until
	}
}

// resting reports whether enter would refuse.
func (r *rest) resting(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.limitedUntil) || r.failed >= breakerThreshold && (r.probing || now.Before(r.openUntil))
}
