package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// reopenWait is the first pause before a new request to a member that failed. A
// registry rarely recovers in less.
const reopenWait = 500 * time.Millisecond

// blobReader is a blob, or a part of one, as the members of a chain deliver it.
// If a stream breaks off or stalls, the next Read continues at the same offset,
// on the member that its retryPolicy names. It is for one goroutine. To end a
// Read, cancel the context that the blob was opened with.
type blobReader struct {
	size     int64  // of the whole blob; -1 if unknown
	upstream string // host of the member that delivers now

	ctx     context.Context
	logger  *slog.Logger
	repo    string
	dgst    digest.Digest
	members []Member
	part    oci.Blob // nil if no stream is open
	begun   bool     // a client has a part of the body
	offset  int64    // of the next byte
	limit   int64    // end of the range that the caller asked for; -1 if open-ended
	end     int64    // where the reader ends; -1: where the stream ends

	hash      hash.Hash // of all bytes so far; nil if the end is known
	ended     int64     // offset of an unconfirmed EOF; -1 if none
	delivered []bool    // members that some bytes came from
	err       error     // of each Read from now on; nil while the reader goes on

	retry   *retryPolicy
	reasons failures // since the last byte
	waiting bool     // for a member, since the last byte
	last    []*Error // the last failure of each member
}

// openBlob opens a blob on the first member that has it.
func openBlob(ctx context.Context, logger *slog.Logger, members []Member, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	b := &blobReader{
		ctx: ctx, logger: logger, repo: repo, dgst: dgst, members: members,
		size: -1, offset: offset, limit: -1, end: -1, ended: -1,
		delivered: make([]bool, len(members)), retry: newRetryPolicy(len(members)), last: make([]*Error, len(members)),
	}
	if length >= 0 {
		b.limit = offset + length
		b.end = b.limit
	}
	b.begun = oci.IsContinuation(ctx)
	_, err := ask(ctx, logger, members, nil, func(_ context.Context, m Member) (struct{}, error) {
		err := b.open(m)
		if err != nil && b.begun {
			b.retry.opened(slices.Index(members, m))
			b.note(err)
			b.retry.fail(failureOf(err))
		}
		return struct{}{}, err
	})
	if err != nil && b.begun && advances(err) {
		err = b.openLate(err)
	}
	if err != nil {
		return nil, err
	}
	if offset == 0 && b.end < 0 {
		// Only the digest can confirm the end of a blob of unknown size.
		b.hash = dgst.Algorithm().Hash()
	}
	return b, nil
}

// openLate opens a part of a body under way after all members have failed to open it
// once. It tries again as after a broken stream, and returns the first failure, whose
// class is that of the members if that fails.
func (b *blobReader) openLate(first error) error {
	for b.upstream == "" && b.err == nil {
		b.resume()
	}
	switch {
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case b.err != nil:
		return first
	default:
		return nil
	}
}

// open opens the remaining bytes on a member.
func (b *blobReader) open(m Member) error {
	length := int64(-1)
	if b.limit >= 0 {
		length = b.limit - b.offset
	}
	ctx := b.ctx
	if b.begun {
		ctx = oci.WithContinuation(ctx) // a limit that began meanwhile does not cut it off
	}
	part, err := m.Blob(ctx, b.repo, b.dgst, b.offset, length)
	switch {
	case b.nothingLeft(err):
		// Bytes were asked for beyond the end, so the last one is delivered.
		b.size, b.end = b.offset, b.offset
	case err != nil:
		return err
	case part.Size() >= 0 && b.size >= 0 && part.Size() != b.size:
		// One of the two members is wrong, and the earlier bytes are delivered.
		part.Close()
		return m.Health().Broken(b.ctx, b.repo, b.dgst, fmt.Errorf("the blob's size was %d and is now %d bytes", b.size, part.Size()))
	default:
		b.part = part
		b.learnSize(part.Size())
	}
	b.upstream, b.begun = m.Host(), true // the next stream continues this one
	b.retry.opened(slices.Index(b.members, m))
	return nil
}

func (b *blobReader) learnSize(size int64) {
	if b.size >= 0 || size < 0 {
		return // known already, or still unknown
	}
	b.size = size
	if b.end < 0 || b.end > size {
		b.end = size
	}
}

// nothingLeft reports whether an error says that the blob, whose size is not
// known so far, ends at the current offset. A range that a caller asked for and
// that begins beyond the end stays the error it is.
func (b *blobReader) nothingLeft(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != http.StatusRequestedRangeNotSatisfiable || b.size >= 0 {
		return false
	}
	begun := slices.Contains(b.delivered, true)
	if b.limit >= 0 && !begun {
		return false // the caller's range is wrong
	}
	size, told := unsatisfiedSize(e.contentRange)
	// An answer without a size means the end if bytes came before: they cannot
	// lie beyond it.
	return told && size == b.offset || !told && begun
}

// Size returns the length of the whole blob, -1 if it is not known.
func (b *blobReader) Size() int64 { return b.size }

// Upstream returns the host of the member that delivers now.
func (b *blobReader) Upstream() string { return b.upstream }

// Read returns an *Error of [ClassUnavailable] if every member failed three
// times without a byte of progress, or the context's error.
func (b *blobReader) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.end >= 0 && b.offset >= b.end {
			b.err = io.EOF
			break
		}
		if b.part == nil {
			b.resume() // opens a stream, waits, or sets err
			continue
		}
		limited := p
		if b.end >= 0 { // a member may send more than the blob
			limited = p[:min(int64(len(p)), b.end-b.offset)]
		}
		n, err := b.part.Read(limited)
		if n > 0 {
			b.progress(p[:n])
			return n, nil // an error comes again with the next Read
		}
		switch {
		case err == io.EOF && b.end < 0 && b.complete():
			b.size, b.end = b.offset, b.offset
		case err != nil:
			b.broke(err)
		case len(p) == 0:
			return 0, nil // else an empty buffer would loop for ever
		}
	}
	return 0, b.err
}

// complete reports whether the end of a stream is the end of the blob, whose
// size is not known. A clean EOF may still be a cut connection, so it counts
// only if the digest matches or a second stream ends at the same offset.
func (b *blobReader) complete() bool {
	if b.hash != nil && digest.NewDigest(b.dgst.Algorithm(), b.hash) == b.dgst {
		return true
	}
	again := b.ended == b.offset
	b.ended = b.offset
	return again
}

func (b *blobReader) progress(p []byte) {
	b.offset += int64(len(p))
	if !b.delivered[b.retry.current] {
		b.delivered[b.retry.current] = true
		oci.AssemblyOf(b.ctx).Delivered(b.upstream)
	}
	if b.hash != nil {
		b.hash.Write(p)
	}
	b.retry.progressed(len(p))
	b.reasons, b.waiting = nil, false
}

// broke notes that the open stream ended early.
func (b *blobReader) broke(err error) {
	b.part.Close()
	b.part = nil
	if err == io.EOF {
		// The member saw a clean end, and only the reader knows that more is due.
		err = b.member().Health().Broken(b.ctx, b.repo, b.dgst, fmt.Errorf("the body broke off at offset %d: %w", b.offset, io.ErrUnexpectedEOF))
	}
	if b.fail(err) {
		b.retry.broke(failureOf(err))
	}
}

// fail notes the failure of the current member. It returns false if the context
// is done, which ends the reader.
func (b *blobReader) fail(err error) bool {
	if b.ctx.Err() != nil {
		b.err = b.ctx.Err()
		return false
	}
	b.note(err)
	b.logger.Warn("a download broke off", "upstream", b.member().Host(), "digest", b.dgst, "offset", b.offset, "error", err)
	return true
}

// note keeps the failure of the current member for the error of the reader.
func (b *blobReader) note(err error) {
	b.reasons = append(b.reasons, err)
	if failure, ok := errors.AsType[*Error](err); ok {
		b.last[b.retry.current] = failure
	}
}

// resume opens the remaining bytes after a failure, or ends the reader.
func (b *blobReader) resume() {
	next := b.retry.next(time.Now(), func(i int) time.Duration {
		health := b.members[i].Health()
		health.Probe(true) // all have failed, so its return is waited for
		left, _ := health.Cooldown()
		return left
	})
	switch next.action {
	case giveUp:
		b.err = b.exhausted()
	case recoverAll:
		if !b.waiting { // one line, however often the wait is extended
			b.waiting = true
			b.logger.Info("a download waits for an upstream that is unavailable", "digest", b.dgst, "offset", b.offset, "for_at_most", maxRecoveryTime)
		}
		b.sleep(next.wait)
	case reopen:
		wait := next.wait
		if wait == 0 && next.step > 0 {
			wait = backoff(reopenWait, next.step)
		}
		if wait > 0 && !b.sleep(wait) {
			return
		}
		if err := b.open(b.member()); err != nil && b.fail(err) {
			b.retry.fail(failureOf(err))
		}
	}
}

// exhausted is the error of a reader whose members have all failed too often. It
// names the current member, and lists the failures of all.
func (b *blobReader) exhausted() *Error {
	e := &Error{Host: b.member().Host(), Op: opBlob, Repository: b.repo, Reference: b.dgst.String(), Class: ClassUnavailable, Err: b.reasons}
	if last := b.last[b.retry.current]; last != nil {
		e.Repository, e.Credentials = last.Repository, last.Credentials
	}
	return e
}

func (b *blobReader) member() Member { return b.members[b.retry.current] }

// sleep returns false if the context ends first, which ends the reader.
func (b *blobReader) sleep(d time.Duration) bool {
	if sleep(b.ctx, d) {
		return true
	}
	b.err = b.ctx.Err()
	return false
}

// Reject counts as a failure of each member that delivered some of the bytes,
// and for a while chains ask those members last for this digest. A member that
// delivered all of them, and corrupt content for other digests before, cools
// down. Reject reports whether a member is left that has not been rejected, so
// that opening the blob again is worth it. It is not if all these bytes came from members
// that had been rejected before: they were asked last, after all others had failed.
func (b *blobReader) Reject() (elsewhere bool) {
	// A body without a byte is wrong, too.
	b.delivered[b.retry.current] = true
	news := false
	culprits := 0
	for _, delivered := range b.delivered {
		if delivered {
			culprits++
		}
	}
	for i, m := range b.members {
		news = news || b.delivered[i] && !m.Health().Rejected(b.dgst)
	}
	for i, m := range b.members {
		if b.delivered[i] {
			// If several members contributed, the bad one is unknown, and none
			// may cool down for the fault of another.
			m.Health().Reject(b.dgst, culprits == 1 && !oci.AssemblyOf(b.ctx).Mixed())
		}
	}
	return news && slices.ContainsFunc(b.members, func(m Member) bool { return !m.Health().Rejected(b.dgst) })
}

// Close ends the reader.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	if b.part == nil {
		return nil
	}
	err := b.part.Close()
	b.part = nil
	return err
}

var errClosed = errors.New("upstream: read of a closed body")
