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
	breakerRest      = 10 * time.Second
	breakerMaxRest   = 60 * time.Second

	// For so many digests a registry must lately have delivered the wrong
	// bytes before it rests, and so long it then does. Content that went bad
	// in one place is no reason to do without all the rest.
	liarThreshold = 3
	liarRest      = time.Minute
	liarMaxRest   = 15 * time.Minute

	// reprieveEvery bounds how often the breaker's rest is cut short.
	reprieveEvery = time.Second

	// probeTime is about what a probe takes that is under way.
	probeTime = time.Second
)

// rest knows whether a registry may be asked now. It rests after an answer of
// 429 for as long as that asks for, for a while after it delivered the wrong
// bytes repeatedly, and behind a circuit breaker when it could not be connected
// to several times in a row. When the breaker's time is over, one request at a
// time probes whether the registry is back.
type rest struct {
	mu           sync.Mutex
	limitedUntil time.Time

	liarUntil time.Time
	liarPause time.Duration

	failed    int   // connects in a row
	reason    error // of the last failed connect
	pause     time.Duration
	openUntil time.Time
	probing   bool

	reprieved time.Time // the last time that the breaker's rest was cut short
}

// enter asks for leave to send a request. It returns an error of the class that
// is remembered while the registry rests, else a function that must be called
// when the request is over.
func (r *rest) enter(now time.Time) (leave func(), resting *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case now.Before(r.limitedUntil):
		return nil, &Error{Class: ClassRateLimited, resting: true, RetryAfter: r.limitedUntil.Sub(now), Message: "not asked again before it allows that"}
	case now.Before(r.liarUntil):
		return nil, &Error{Class: ClassUnavailable, resting: true, Err: fmt.Errorf("not asked for a while after it delivered the wrong bytes repeatedly: %w", ErrDigestMismatch)}
	case r.failed < breakerThreshold:
		return func() {}, nil
	case now.Before(r.openUntil) || r.probing:
		return nil, &Error{Class: ClassUnavailable, resting: true, Err: fmt.Errorf("not asked for a while after %d failed connects, the last one: %w", r.failed, r.reason)}
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

// connected notes that there is a connection to the registry, and reports
// whether that ends a rest.
func (r *rest) connected() (back bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	back = r.failed >= breakerThreshold
	r.failed, r.reason, r.pause, r.openUntil, r.probing = 0, nil, 0, time.Time{}, false
	return back
}

// connectFailed notes that the registry could not be connected to, and returns
// for how long it now rests; 0 where that changes nothing. Requests that were
// under way when the breaker opened do not prolong its rest.
func (r *rest) connectFailed(now time.Time, reason error) (pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
	r.reason = reason
	if r.failed == breakerThreshold || r.probing {
		r.pause = min(max(2*r.pause, breakerRest), breakerMaxRest)
		r.openUntil = now.Add(r.pause)
		pause = r.pause
	}
	r.probing = false
	return pause
}

// limit lets the registry rest because it said 429, and reports whether that
// makes a difference of a second at least: answers to requests sent at the same
// time say the same.
func (r *rest) limit(until time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until.Sub(r.limitedUntil) < time.Second {
		return false
	}
	r.limitedUntil = until
	return true
}

// lied notes that the registry delivered the wrong bytes, lately for that many
// digests, and returns for how long it now rests; 0 where that changes nothing.
// Soon after such a rest one digest is enough for the next one, of twice the
// time.
func (r *rest) lied(now time.Time, digests int) (pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.liarUntil) > rejectionTime {
		r.liarPause = 0
	}
	if now.Before(r.liarUntil) || r.liarPause == 0 && digests < liarThreshold {
		return 0
	}
	r.liarPause = min(max(2*r.liarPause, liarRest), liarMaxRest)
	r.liarUntil = now.Add(r.liarPause)
	return r.liarPause
}

// reprieve cuts a rest short for a request that nobody else can answer, and
// reports whether it did. A rate limit is not ours to cut short, and a registry
// that cannot be connected to must not cost every such request its connect
// timeout. One that lied is no danger: one more lie, and it rests for longer.
func (r *rest) reprieve(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case now.Before(r.limitedUntil):
		return false
	case now.Before(r.liarUntil):
		r.liarUntil = now
		return true
	case r.probing || now.Sub(r.reprieved) < reprieveEvery:
		return false
	}
	r.reprieved = now
	if now.Before(r.openUntil) {
		r.openUntil = now
	}
	return true
}

// left returns how long enter is going to refuse, as far as can be said; 0 when
// it would not.
func (r *rest) left(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := max(0, r.limitedUntil.Sub(now), r.liarUntil.Sub(now))
	if r.failed >= breakerThreshold {
		left = max(left, r.openUntil.Sub(now))
		if r.probing {
			left = max(left, probeTime)
		}
	}
	return left
}

// doubtful reports whether the next request is going to be a probe.
func (r *rest) doubtful(now time.Time) bool {
	r.mu.Lock()
	probe := r.failed >= breakerThreshold
	r.mu.Unlock()
	return probe && r.left(now) == 0
}
