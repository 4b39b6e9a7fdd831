// Package cooldown is the circuit breaker of everything that Weir talks to: an
// upstream that cannot be connected to, an upstream that delivers corrupt
// content, a shared token store that fails, a Redis session that ends.
//
//	          Threshold failures             Allow after the deadline
//	closed ----------------------> open -------------------------------> probing
//	  ^                             ^  ^                                  |  |  |
//	  |                             |  '------- Failure: pause doubles ---'  |  |
//	  |                             '---------- Abandon: no pause -----------'  |
//	  '---------------------------------------- Success ------------------------'
//
// A breaker is a pure state machine. It reads no clock, starts no goroutine and
// holds no lock: its owner passes the time and serialises the calls.
package cooldown

import (
	"cmp"
	"time"
)

// Options say when a breaker opens and for how long.
type Options struct {
	Threshold int           // failures in a row that open it; 0: 1
	Pause     time.Duration // how long it stays open at first
	MaxPause  time.Duration // bound of the doubling pause; 0: Pause, so it never grows
	// MinInterval is the least time between two early ends of a pause.
	MinInterval time.Duration
}

// Breaker decides whether a request may be sent to something that fails at
// times. Make one with [New].
type Breaker struct {
	opts      Options
	state     state
	failures  int           // in a row
	pause     time.Duration // of the last opening; 0 since the last success
	until     time.Time     // while open: when a probe is due
	lastEarly time.Time     // when Expire last ended a pause
}

type state uint8

const (
	closed  state = iota // requests are sent
	open                 // no request is sent until the deadline, then one
	probing              // that one is under way, and no other is sent
)

// New returns a closed breaker.
func New(opts Options) Breaker {
	opts.Threshold = cmp.Or(opts.Threshold, 1)
	opts.MaxPause = cmp.Or(opts.MaxPause, opts.Pause)
	return Breaker{opts: opts}
}

// Allow reports whether a request may be sent now. A request that is a probe
// decides with its outcome whether the breaker closes, and must end in Success,
// Failure or Abandon: until then no other request is allowed.
func (b *Breaker) Allow(now time.Time) (allowed, probe bool) {
	switch {
	case b.state == closed:
		return true, false
	case b.HalfOpen(now):
		b.state = probing
		return true, true
	default:
		return false, false
	}
}

// Success closes the breaker, whatever its state. It reports whether it was not
// closed before.
func (b *Breaker) Success() (changed bool) {
	changed = b.state != closed
	b.state, b.failures, b.pause, b.until = closed, 0, 0, time.Time{}
	return changed
}

// Failure counts a failure. It returns the pause that begins now, and false if
// none does.
func (b *Breaker) Failure(now time.Time) (pause time.Duration, opened bool) {
	b.failures++
	switch b.state {
	case closed:
		if b.failures < b.opts.Threshold {
			return 0, false
		}
	case open:
		// A request that was under way when the breaker opened says nothing new,
		// so it does not prolong the pause.
		return 0, false
	case probing:
	}
	b.pause = min(max(2*b.pause, b.opts.Pause), b.opts.MaxPause)
	b.state, b.until = open, now.Add(b.pause)
	return b.pause, true
}

// Abandon ends a probe that learned nothing, for example because its client
// went away. The next request is a probe again.
func (b *Breaker) Abandon() {
	if b.state == probing {
		b.state = open // the deadline has passed
	}
}

// Expire ends the pause now, so that the next request is a probe, for a caller
// that has no other way to an answer. It returns false while a probe is under
// way, and less than MinInterval after it last returned true.
func (b *Breaker) Expire(now time.Time) bool {
	if b.state == probing {
		return false // that request finds out
	}
	// Without an interval each call counts, even if its clock was read before that
	// of the last one.
	if b.opts.MinInterval > 0 && now.Sub(b.lastEarly) < b.opts.MinInterval {
		return false
	}
	b.lastEarly = now
	if now.Before(b.until) {
		b.until = now
	}
	return true
}

// Closed reports whether the last outcome that counted was a success.
func (b *Breaker) Closed() bool { return b.state == closed }

// Probing reports whether a probe is under way.
func (b *Breaker) Probing() bool { return b.state == probing }

// HalfOpen reports whether the next request would be a probe.
func (b *Breaker) HalfOpen(now time.Time) bool { return b.state == open && !now.Before(b.until) }

// Until returns the end of the last pause, and the zero time after a success.
func (b *Breaker) Until() time.Time { return b.until }

// Failures returns the number of failures in a row.
func (b *Breaker) Failures() int { return b.failures }
