package upstream

import (
	"fmt"
	"io"
	"time"
)

// How a blobReader goes on where a stream broke off: first on the same member with a
// new request from the start (a signed URL may have expired), then on whichever
// member failed least, with growing pauses. When all have failed often enough it
// waits once more for those that rest, if that is soon over.

// broke notes that the open stream ended early.
func (b *blobReader) broke(err error) {
	b.part.Close()
	b.part = nil
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.trickles++
	if b.streamed >= minProgress {
		b.trickles = 0
	}
	c := b.members[b.current]
	b.fail(c.badAnswer(b.ctx, b.call(), fmt.Errorf("the body broke off at offset %d: %w", b.offset, err)))
}

// fail notes the failure of the current member; the end of the context ends the
// body instead.
func (b *blobReader) fail(err error) {
	if b.ctx.Err() != nil {
		b.err = b.ctx.Err()
		return
	}
	b.failed[b.current]++
	if ClassOf(err) == ClassNotFound {
		b.failed[b.current] = triesPerMember // and will not have it in a moment
	}
	b.reasons = append(b.reasons, err)
	b.logger.Warn("a download broke off", "upstream", b.members[b.current].Host(), "digest", b.dgst, "offset", b.offset, "error", err)
}

// reopen continues the body on the current member or on another one that may
// still be tried.
func (b *blobReader) reopen() {
	b.choose()
	failed := b.failed[b.current]
	if failed >= triesPerMember {
		if !b.waitForRecovery() && b.err == nil {
			e := &Error{Class: ClassUnavailable, Err: b.reasons}
			b.err = b.members[b.current].identify(e, b.call())
		}
		return
	}
	// A stream that broke is asked for again at once, but not from a member
	// that just failed to open it, and not if all of them break off early.
	if len(b.reasons) < 2 {
		failed = 0
	}
	if hurry := max(failed, b.trickles-1); hurry > 0 && !sleep(b.ctx, backoff(reopenWait, min(hurry, triesPerMember))) {
		b.err = b.ctx.Err()
		return
	}
	if err := b.open(b.members[b.current]); err != nil {
		b.fail(err)
	}
}

// choose makes the member current that the rest is to be asked for: the same one
// after its first failure, then the one that failed least.
func (b *blobReader) choose() {
	if b.failed[b.current] < 2 {
		return
	}
	best := (b.current + 1) % len(b.members)
	for i := range b.members {
		if next := (b.current + 1 + i) % len(b.members); b.failed[next] < b.failed[best] {
			best = next
		}
	}
	b.current = best
}

// waitForRecovery waits for the first of the members that rest, and reports whether it
// is worth going on. A registry that restarts makes many downloads fail to
// connect at once, and then rests longer than it was away.
func (b *blobReader) waitForRecovery() bool {
	now := time.Now()
	wait := maxRecoveryWait + 1
	for _, c := range b.members {
		if _, left := c.cooldown.status(now); left > 0 {
			wait = min(wait, left)
		}
	}
	if b.recoveryWait+wait > maxRecoveryWait {
		return false
	}
	b.logger.Info("a download waits for an upstream that rests", "digest", b.dgst, "offset", b.offset, "for", wait.Round(time.Millisecond))
	if !sleep(b.ctx, wait) {
		b.err = b.ctx.Err()
		return false
	}
	b.recoveryWait += wait
	clear(b.failed)
	b.reasons = nil
	return true
}
