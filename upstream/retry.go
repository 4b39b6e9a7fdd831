package upstream

import (
	"errors"
	"time"
)

const (
	// triesPerMember is how often each member may fail, without a byte of
	// progress in between, before a blob fails.
	triesPerMember = 3
	// maxRecoveryTime bounds how long a blob, before it fails, waits for members to
	// come back: clients give up after about as long.
	maxRecoveryTime = 15 * time.Second
	// recoveryPause is the pause between two tries to connect to a member.
	recoveryPause = time.Second
	// minProgress is the least that a stream must deliver to be no trickle.
	// After two trickles in a row the next stream is opened after a pause, so
	// that a registry that cuts each stream is not asked thousands of times.
	minProgress = 64 << 10
)

// retryPolicy decides how a blob goes on after a failure: first on the same
// member with a new request (a signed URL may have expired), then on the member
// that failed least, with growing pauses, or with the pause that a member asks for if
// that is short. When every member has failed triesPerMember times, it waits for those
// that cannot be connected to or cool down, if that may soon be over.
//
// It is a pure state machine: it reads no clock and sends no request.
type retryPolicy struct {
	current  int   // index of the member that delivers now, or did last
	streamed int64 // bytes of the open stream
	trickles int   // streams in a row that broke off early

	// Since the last byte:
	members    []memberFailures
	failures   int       // of all members
	recovering time.Time // when the first wait for a member began
	waited     bool      // the last decision was to wait for a member
}

// memberFailures are the failures of one member.
type memberFailures struct {
	count int
	last  failure
}

// failure is the part of an error that decides how a blob goes on.
type failure struct {
	class      Class
	retryAfter time.Duration // as the member asks for; 0: it does not
	away       bool          // the member, or a host that it redirects to, cannot be connected to or cools down
}

// failureOf returns the failure that an error is.
func failureOf(err error) failure {
	e := asError(err)
	broken, isBroken := errors.AsType[*transportError](e.Err)
	return failure{
		class: e.Class, retryAfter: e.RetryAfter,
		away: isBroken && !broken.connected || e.coolingDown && e.Class != ClassRateLimited,
	}
}

func newRetryPolicy(members int) *retryPolicy {
	return &retryPolicy{members: make([]memberFailures, members)}
}

// opened notes that a member delivers from now on.
func (p *retryPolicy) opened(member int) { p.current, p.streamed = member, 0 }

// progressed notes that the open stream delivered n bytes.
func (p *retryPolicy) progressed(n int) {
	p.streamed += int64(n)
	clear(p.members)
	p.failures, p.recovering, p.waited = 0, time.Time{}, false
}

// broke notes that the open stream ended early.
func (p *retryPolicy) broke(f failure) {
	p.trickles++
	if p.streamed >= minProgress {
		p.trickles = 0 // the stream was worth its request
	}
	p.fail(f)
}

// fail notes that the current member failed.
func (p *retryPolicy) fail(f failure) {
	p.failures++
	m := &p.members[p.current]
	m.count++
	m.last = f
	if f.class == ClassNotFound {
		m.count = triesPerMember // the blob will not appear within seconds
	}
}

// action is how a blob goes on.
type action uint8

const (
	giveUp     action = iota
	reopen            // on the current member, after a pause
	recoverAll        // wait for a member to come back, then decide again
)

// decision is an action and its pause.
type decision struct {
	action action
	step   int           // of reopen: the number of the growing pause before it; 0: none
	wait   time.Duration // of reopen, in place of step if not 0, and of recoverAll
}

// next decides how the blob goes on. left returns for how long a member cools
// down, 0 if it does not.
func (p *retryPolicy) next(now time.Time, left func(member int) time.Duration) decision {
	p.choose()
	m := &p.members[p.current]
	if m.count >= triesPerMember {
		return p.wait(now, left)
	}
	if wait := m.last.retryAfter; wait > 0 && wait <= p.patience(now) {
		m.last.retryAfter = 0 // the pause is over when the blob is asked for again
		p.beginRecovery(now)
		return decision{action: reopen, wait: wait}
	}
	// After a single failure the blob is asked for again at once. A member that
	// then fails to open it gets a pause.
	failed := m.count
	if p.failures < 2 {
		failed = 0
	}
	return decision{action: reopen, step: min(max(failed, p.trickles-1), triesPerMember)}
}

// choose makes the member current that is asked next: the same one after its
// first failure, then the member that failed least, the next in order first.
func (p *retryPolicy) choose() {
	if p.members[p.current].count < 2 {
		return // a new request may do, for example for a new signed URL
	}
	best := (p.current + 1) % len(p.members)
	for i := range p.members {
		if next := (p.current + 1 + i) % len(p.members); p.members[next].count < p.members[best].count {
			best = next
		}
	}
	p.current = best
}

// patience returns how much longer the blob waits for members.
func (p *retryPolicy) patience(now time.Time) time.Duration {
	if p.recovering.IsZero() {
		return maxRecoveryTime
	}
	return maxRecoveryTime - now.Sub(p.recovering)
}

// beginRecovery starts the time that patience counts.
func (p *retryPolicy) beginRecovery(now time.Time) {
	if p.recovering.IsZero() {
		p.recovering = now
	}
}

// wait decides to wait for a member that is unavailable. A registry that restarts is unavailable for
// some seconds and refuses a connect at once, so that the tries alone are used up
// sooner. After the wait each member that no longer cools down has one more try.
func (p *retryPolicy) wait(now time.Time, left func(member int) time.Duration) decision {
	wait := maxRecoveryTime + 1 // too long, if no member is unavailable
	back := -1
	for i := range p.members {
		m := &p.members[i]
		left := left(i)
		m.last.away = m.last.away || left > 0
		switch {
		case m.last.class == ClassNotFound || !m.last.away:
			// Waiting changes nothing about its answer.
		case left > 0:
			wait = min(wait, left)
		default:
			wait = min(wait, recoveryPause)
			if p.waited {
				m.count = triesPerMember - 1
				back = i
			}
		}
	}
	switch {
	case back >= 0:
		p.waited, p.current = false, back
		return decision{action: reopen}
	case wait > p.patience(now):
		return decision{action: giveUp}
	}
	p.beginRecovery(now)
	p.waited = true
	return decision{action: recoverAll, wait: wait}
}
