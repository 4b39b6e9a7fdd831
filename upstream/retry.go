package upstream

import "time"

const (
	// triesPerMember is how often each member may fail, without a byte of
	// progress in between, before a blob fails.
	triesPerMember = 3
	// maxRecoveryWait bounds how long a blob, before it fails, waits for members
	// to end their cooldown: clients give up after about as long.
	maxRecoveryWait = 15 * time.Second
	// minProgress is the least that a stream must deliver to be no trickle.
	// After two trickles in a row the next stream is opened after a pause, so
	// that a registry that cuts each stream is not asked thousands of times.
	minProgress = 64 << 10
)

// retryPolicy decides how a blob goes on after a failure: first on the same
// member with a new request (a signed URL may have expired), then on the member
// that failed least, with growing pauses. When every member has failed
// triesPerMember times, it waits once more for those that cool down, if that is
// soon over.
//
// It is a pure state machine: it reads no clock and sends no request.
type retryPolicy struct {
	current  int   // index of the member that delivers now, or did last
	streamed int64 // bytes of the open stream
	trickles int   // streams in a row that broke off early

	// Since the last byte:
	failed   []int // failures of each member
	failures int   // of all members
	waited   time.Duration
}

func newRetryPolicy(members int) *retryPolicy { return &retryPolicy{failed: make([]int, members)} }

// opened notes that a member delivers from now on.
func (p *retryPolicy) opened(member int) { p.current, p.streamed = member, 0 }

// progressed notes that the open stream delivered n bytes.
func (p *retryPolicy) progressed(n int) {
	p.streamed += int64(n)
	clear(p.failed)
	p.failures, p.waited = 0, 0
}

// broke notes that the open stream ended early.
func (p *retryPolicy) broke(class Class) {
	p.trickles++
	if p.streamed >= minProgress {
		p.trickles = 0 // the stream was worth its request
	}
	p.fail(class)
}

// fail notes that the current member failed.
func (p *retryPolicy) fail(class Class) {
	p.failures++
	p.failed[p.current]++
	if class == ClassNotFound {
		p.failed[p.current] = triesPerMember // the blob will not appear within seconds
	}
}

// action is how a blob goes on.
type action uint8

const (
	giveUp     action = iota
	reopen            // on the current member, after a pause
	recoverAll        // wait for the end of a cooldown, then decide again
)

// decision is an action and its pause.
type decision struct {
	action action
	step   int           // of reopen: the number of the growing pause before it; 0: none
	wait   time.Duration // of recoverAll
}

// next decides how the blob goes on. left returns for how long a member cools
// down, 0 if it does not.
func (p *retryPolicy) next(left func(member int) time.Duration) decision {
	p.choose()
	failed := p.failed[p.current]
	if failed >= triesPerMember {
		return p.wait(left)
	}
	// After a single failure the blob is asked for again at once. A member that
	// then fails to open it gets a pause.
	if p.failures < 2 {
		failed = 0
	}
	return decision{action: reopen, step: min(max(failed, p.trickles-1), triesPerMember)}
}

// choose makes the member current that is asked next: the same one after its
// first failure, then the member that failed least, the next in order first.
func (p *retryPolicy) choose() {
	if p.failed[p.current] < 2 {
		return // a new request may do, for example for a new signed URL
	}
	best := (p.current + 1) % len(p.failed)
	for i := range p.failed {
		if next := (p.current + 1 + i) % len(p.failed); p.failed[next] < p.failed[best] {
			best = next
		}
	}
	p.current = best
}

// wait decides to wait for the first member that ends its cooldown, if that is
// soon, and forgets all failures. A registry that restarts fails many connects at
// once, so its cooldown is often longer than its absence.
func (p *retryPolicy) wait(left func(member int) time.Duration) decision {
	wait := maxRecoveryWait + 1 // too long, if no member cools down
	for member := range p.failed {
		if left := left(member); left > 0 {
			wait = min(wait, left)
		}
	}
	if p.waited+wait > maxRecoveryWait {
		return decision{action: giveUp}
	}
	p.waited += wait
	clear(p.failed)
	p.failures = 0
	return decision{action: recoverAll, wait: wait}
}
