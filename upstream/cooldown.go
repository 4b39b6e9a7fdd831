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

	// corruptThreshold is how many digests a registry must recently have delivered
	// wrong bytes for before it cools down: one file that rotted there is no
	// reason to do without everything else.
	corruptThreshold = 3
	corruptPause     = time.Minute
	corruptMaxPause  = 15 * time.Minute

	// probeTime is about the time that a probe takes.
	probeTime = time.Second

	// watchEvery is short against the patience of clients, which wait or try again
	// for some seconds.
	watchEvery = time.Second
	// watchTime is longer than the pauses between the tries of a client, and short
	// enough that a registry without requests is left alone.
	watchTime = time.Minute
	// watchProbes bounds how many probes of a watch wait for an answer. A registry that
	// hung never answers those that it got before.
	watchProbes = 8
)

// cooldownState is why requests are sent to a registry or not. The later the
// state, the longer it may last.
type cooldownState uint8

const (
	stateAvailable   cooldownState = iota
	stateProbing                   // connects failed; the next request finds out, or one is under way
	stateUnreachable               // connects failed, and the breaker is open
	stateLimited                   // it answered an operation with 429
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

// registryCooldown decides whether requests may be sent to a registry now. A rate
// limit ends the requests of one operation. All of them end in these states, the
// first one whose condition holds:
//
//	corrupt        before the end of the pause after corrupt content
//	unreachable    before the end of the pause after failed connects
//	probing        after that pause, until a connect succeeds
//	available
//
// A request that a registry leaves without an answer for as long as it may take, while it
// answers no other one, is a failed connect, too: the registry hangs.
//
// The state follows from deadlines and is not stored, because the causes overlap and
// each ends in its own way: a limit only with its time, a pause for corrupt content
// also if no other registry has an answer, and failed connects only with a connect.
// One deadline for all would end a limit before its time, or forget during a limit
// that the registry was unreachable before.
//
// While every registry that could answer is unreachable, the registry is watched:
// probes separate from the requests find out whether it is back, and no request is one.
type registryCooldown struct {
	mu           sync.Mutex
	limits       limitTable
	corrupt      cooldown.Breaker // all requests are allowed after its pause
	connects     cooldown.Breaker
	reason       error     // of the last failed connect
	failed       time.Time // when it failed
	probes       int       // how many began so far
	probed       time.Time // when the last one began
	watched      bool
	watchedUntil time.Time // a minute after the last request that wanted it
}

func newRegistryCooldown() *registryCooldown {
	return &registryCooldown{
		limits:   newLimitTable(),
		corrupt:  cooldown.New(cooldown.Options{Pause: corruptPause, MaxPause: corruptMaxPause}),
		connects: cooldown.New(cooldown.Options{Threshold: breakerThreshold, Pause: breakerPause, MaxPause: breakerMaxPause, MinInterval: earlyProbeEvery}),
	}
}

// current returns the state and how long enter is going to refuse every operation,
// as far as that is known; 0 if it would admit a request. The caller holds the mutex.
func (c *registryCooldown) current(now time.Time) (state cooldownState, left time.Duration) {
	switch {
	case now.Before(c.corrupt.Until()):
		state = stateCorrupt
	case c.connects.Closed():
		return stateAvailable, 0
	case now.Before(c.connects.Until()):
		state = stateUnreachable
	default:
		state = stateProbing
	}
	connects := c.connects.Until().Sub(now)
	switch {
	case c.isWatched():
		connects = probeTime // the next probe may end it
	case c.connects.Probing():
		connects = max(connects, probeTime)
	}
	// Of several causes, the one that ends last decides when requests are sent.
	return state, max(0, c.corrupt.Until().Sub(now), connects)
}

// enter asks to send a request to a place of the registry. While the registry cools down it
// returns an error of the class of the cause, else a function that must be called
// when the request is over. The rest of a body under way is asked for in spite of a
// limit: a client has a part of it, and would lose that.
func (c *registryCooldown) enter(now time.Time, p place, rest bool) (leave func(), refused *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.limits.end(p).Sub(now); left > 0 && !rest {
		return nil, limitedError(left)
	}
	if state, _ := c.current(now); state == stateCorrupt {
		return nil, &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("backing off after it delivered corrupt content repeatedly: %w", ErrDigestMismatch)}
	}
	unreachable := func() *Error {
		return &Error{Class: ClassUnavailable, coolingDown: true, Err: fmt.Errorf("backing off after %d failures to reach it, the last one: %w", c.connects.Failures(), c.reason)}
	}
	if c.isWatched() {
		return nil, unreachable()
	}
	switch allowed, probe := c.connects.Allow(now); {
	case !allowed:
		return nil, unreachable()
	case probe:
		c.probes++
		c.probed = now
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
	c.reason, c.failed = reason, now
	pause, _ = c.connects.Failure(now)
	return pause
}

// limit starts or extends the cooldown of a place after a 429. It reports false if
// that changes it by less than a second.
func (c *registryCooldown) limit(p place, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limits.extend(p, until)
}

// limitLeft returns how long a place cools down.
func (c *registryCooldown) limitLeft(p place, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, c.limits.end(p).Sub(now))
}

// deliveredCorrupt notes that the registry delivered corrupt content, recently for
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
	state, _ := c.current(now)
	switch {
	case state == stateCorrupt:
		// A registry that served corrupt content may be retried early, because
		// its content is verified.
		return c.corrupt.Expire(now)
	case c.isWatched():
		return false // a probe is never more than a second away
	default:
		return c.connects.Expire(now)
	}
}

// watch notes that a request waits for the end of the cooldown after failed connects.
// It reports whether that begins a watch, whose probes are the caller's to send.
func (c *registryCooldown) watch(now time.Time) (begins bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connects.Closed() {
		return false
	}
	begins = !c.watched
	c.watched, c.watchedUntil = true, now.Add(watchTime)
	return begins
}

// watching reports whether the watch goes on, and whether a probe is due: not a moment
// after a failed connect, nor beside a request that became the probe before the watch
// began, unless that is silent.
func (c *registryCooldown) watching(now time.Time) (goesOn, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = !c.connects.Closed() && now.Before(c.watchedUntil)
	return c.watched, c.watched && now.Sub(c.failed) >= watchEvery &&
		(!c.connects.Probing() || now.Sub(c.probed) >= maxSilence)
}

// isWatched reports whether the registry is unreachable and the watch finds out about
// its return. The caller holds the mutex.
func (c *registryCooldown) isWatched() bool { return c.watched && !c.connects.Closed() }

// endWatch lets requests probe again.
func (c *registryCooldown) endWatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = false
}

// status returns the state, and for each operation how long enter is going to refuse.
// The state is rate_limited if one operation is limited.
func (c *registryCooldown) status(now time.Time) (state cooldownState, left [operations]time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, all := c.current(now)
	for op := range left {
		limit := c.limits.last(operation(op)).Sub(now)
		if limit > 0 {
			state = stateLimited
		}
		left[op] = max(all, limit)
	}
	return state, left
}

// health returns the state and how long enter is going to refuse every operation.
func (c *registryCooldown) health(now time.Time) (state cooldownState, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current(now)
}
