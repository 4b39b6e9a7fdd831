package upstream

import (
	"fmt"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/cooldown"
)

const (
	// breakerThreshold is more than one, so that a single lost connection costs
	// nothing.
	breakerThreshold = 3
	// breakerPause is about the time of a registry's restart. breakerMaxPause
	// bounds how long a registry that is back goes unnoticed.
	breakerPause    = 10 * time.Second
	breakerMaxPause = 60 * time.Second
	// earlyProbeEvery bounds how many requests pay the connect timeout of a
	// registry that is down when no other member can answer.
	earlyProbeEvery = time.Second

	// corruptThreshold is how many digests a registry must lately have delivered
	// wrong bytes for before it cools down: one file that rotted there is no
	// reason to do without everything else.
	corruptThreshold = 3
	corruptPause     = time.Minute
	corruptMaxPause  = 15 * time.Minute

	// probeTime is about the time that a probe takes.
	probeTime = time.Second
)

// cooldownState is why requests are sent to a registry or not. The later the
// state, the longer it may last.
type cooldownState uint8

const (
	stateAvailable   cooldownState = iota
	stateProbing                   // connects failed; the next request finds out, or one is under way
	stateUnreachable               // connects failed, and the breaker is open
	stateLimited                   // it answered 429
	stateCorrupt                   // it delivered corrupt content repeatedly

	cooldownStates // how many there are
)

// String returns the state as metrics name it.
func (s cooldownState) String() string {
	switch s {
	case stateAvailable:
		return "available"
	case stateProbing:
		return "probing"
	case stateUnreachable:
		return "unreachable"
	case stateLimited:
		return "rate_limited"
	default:
		return "corrupt"
	}
}

// registryCooldown decides whether requests may be sent to a registry now. It is
// in the first of these states whose condition holds:
//
//	rate_limited   before the end that a 429 set
//	corrupt        before the end of the pause after corrupt content
//	unreachable    before the end of the pause after failed connects
//	probing        after that pause, until a connect succeeds
//	available
//
// The state follows from three deadlines and is not stored, because the causes
// overlap and each ends in its own way: a limit only with its time, a pause for
// corrupt content also if no other registry has an answer, and failed connects
// only with a connect. One deadline for all would end a limit before its time, or
// forget during a limit that the registry was unreachable before.
type registryCooldown struct {
	mu           sync.Mutex
	limitedUntil time.Time
	corrupt      cooldown.Breaker // all requests are allowed after its pause
	connects     cooldown.Breaker
	reason       error // of the last failed connect
	probes       int   // how many began so far
}

func newRegistryCooldown() *registryCooldown {
	return &registryCooldown{
		corrupt:  cooldown.New(cooldown.Options{Pause: corruptPause, MaxPause: corruptMaxPause}),
		connects: cooldown.New(cooldown.Options{Threshold: breakerThreshold, Pause: breakerPause, MaxPause: breakerMaxPause, MinInterval: earlyProbeEvery}),
	}
}

// current returns the state and how long enter is going to refuse, as far as
// that is known; 0 if it would admit a request. The caller holds the mutex.
func (c *registryCooldown) current(now time.Time) (state cooldownState, left time.Duration) {
	switch {
	case now.Before(c.limitedUntil):
		state = stateLimited
	case now.Before(c.corrupt.Until()):
		state = stateCorrupt
	case c.connects.Closed():
		return stateAvailable, 0
	case now.Before(c.connects.Until()):
		state = stateUnreachable
	default:
		state = stateProbing
	}
	// Of several causes, the one that ends last decides when requests are sent.
	left = max(0, c.limitedUntil.Sub(now), c.corrupt.Until().Sub(now), c.connects.Until().Sub(now))
	if c.connects.Probing() {
		left = max(left, probeTime)
	}
	return state, left
}

// enter asks to send a request. While the registry cools down it returns an
// error of the class of the cause, else a function that must be called when the
// request is over.
func (c *registryCooldown) enter(now time.Time) (leave func(), refused *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state, _ := c.current(now); state {
	case stateLimited:
		return nil, &Error{Class: ClassRateLimited, coolingDown: true, RetryAfter: c.limitedUntil.Sub(now), Message: "no request is sent before the limit ends"}
	case stateCorrupt:
		return nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("backing off after it delivered corrupt content repeatedly: %w", ErrDigestMismatch)}
	}
	switch allowed, probe := c.connects.Allow(now); {
	case !allowed:
		return nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("backing off after %d failed connects, the last one: %w", c.connects.Failures(), c.reason)}
	case probe:
		c.probes++
		number := c.probes
		return func() { c.abandonProbe(number) }, nil
	default:
		return func() {}, nil
	}
}

// abandonProbe ends a probe. It changes nothing if the outcome of the probe's
// connect is known. If the client left before, the next request is the probe.
func (c *registryCooldown) abandonProbe(number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A request that was the probe may go on for longer than the next cooldown,
	// and must not end the probe after that.
	if number == c.probes {
		c.connects.Abandon()
	}
}

// connected notes that there is a connection to the registry, and reports
// whether that ends a cooldown.
func (c *registryCooldown) connected() (back bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = nil
	return c.connects.Success()
}

// connectFailed notes that a connect failed. It returns the pause that begins
// now, or 0.
func (c *registryCooldown) connectFailed(now time.Time, reason error) (pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = reason
	pause, _ = c.connects.Failure(now)
	return pause
}

// limit starts or extends the cooldown after a 429. It reports false if that
// changes it by less than a second, so concurrent 429s are logged once.
func (c *registryCooldown) limit(until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.Sub(c.limitedUntil) < time.Second {
		return false
	}
	c.limitedUntil = until
	return true
}

// deliveredCorrupt notes that the registry delivered corrupt content, lately for
// that many digests. It returns the pause that begins now, or 0. Soon after such
// a pause one digest is enough for the next one, of twice the time.
func (c *registryCooldown) deliveredCorrupt(now time.Time, digests int) (pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.corrupt.Until()) > rejectionTime {
		c.corrupt.Success() // the last pause is long over and forgotten
	}
	if c.corrupt.Closed() && digests < corruptThreshold {
		return 0
	}
	// After the pause this makes the content a failed probe, which doubles the
	// pause. During the pause it changes nothing.
	c.corrupt.Allow(now)
	pause, _ = c.corrupt.Failure(now)
	return pause
}

// allowEarlyProbe ends a cooldown for a request that no other registry can
// answer, and reports whether it did.
func (c *registryCooldown) allowEarlyProbe(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state, _ := c.current(now); state {
	case stateLimited:
		return false // the registry set this limit
	case stateCorrupt:
		// A registry that served corrupt content may be retried early, because
		// its content is verified.
		return c.corrupt.Expire(now)
	default:
		return c.connects.Expire(now)
	}
}

// status returns the state and how long enter is going to refuse.
func (c *registryCooldown) status(now time.Time) (state cooldownState, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current(now)
}
