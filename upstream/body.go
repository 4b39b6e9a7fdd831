package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/opencontainers/go-digest"
)

// triesPerMember is how often each member may fail, without a byte of progress
// in between, before a body gives up.
const triesPerMember = 2

// Body is a blob, or a part of one, as it arrives. Where a stream breaks off or
// stalls, the next Read goes on at the same offset: first on the same member
// with a new request from the start (a signed URL may have expired), then on
// the next ones. It is for one goroutine; to end a Read, cancel the context
// that the body was opened with.
type Body struct {
	Size     int64  // of the whole blob; -1: unknown
	Upstream string // host of the member that delivers now

	ctx     context.Context
	logger  *slog.Logger
	repo    string
	dgst    digest.Digest
	members []*Client
	current int           // index of the member that delivers now
	part    io.ReadCloser // nil when there is none open
	offset  int64         // of the next byte
	limit   int64         // where it ends by the caller's wish; -1: with the blob
	end     int64         // where it ends; -1: where the stream does

	failed    []int  // failures of each member since the last byte
	delivered []bool // members that some bytes came from
	reasons   failures
	err       error // what ended the body
}

// openBody opens a body on the first member that has the blob.
func openBody(ctx context.Context, logger *slog.Logger, members []*Client, repo string, dgst digest.Digest, offset, length int64) (*Body, error) {
	b := &Body{
		ctx: ctx, logger: logger, repo: repo, dgst: dgst, members: members,
		Size: -1, offset: offset, limit: -1, end: -1,
		failed: make([]int, len(members)), delivered: make([]bool, len(members)),
	}
	if length >= 0 {
		b.limit = offset + length
		b.end = b.limit
	}
	_, err := ask(ctx, logger, members, func(c *Client) (struct{}, error) { return struct{}{}, b.open(c) })
	if err != nil {
		return nil, err
	}
	return b, nil
}

// open opens the rest of the body on a member.
func (b *Body) open(c *Client) error {
	p, err := c.openPart(b.ctx, b.repo, b.dgst, b.offset, b.limit, b.Size)
	if err != nil {
		return err
	}
	b.part, b.Upstream = p, c.Host()
	for i, member := range b.members {
		if member == c {
			b.current = i
		}
	}
	if b.Size < 0 && p.size >= 0 {
		b.Size = p.size
		if b.end < 0 || b.end > b.Size {
			b.end = b.Size
		}
	}
	return nil
}

// Read implements io.Reader. It fails with an *Error of [ClassUnavailable] when
// every member failed twice without a byte of progress, or with the context's
// error.
func (b *Body) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.end >= 0 && b.offset >= b.end {
			b.err = io.EOF
			break
		}
		if b.part == nil {
			b.reopen()
			continue
		}
		limited := p
		if b.end >= 0 {
			limited = p[:min(int64(len(p)), b.end-b.offset)]
		}
		n, err := b.part.Read(limited)
		if n > 0 {
			b.progress(n)
			return n, nil // an error comes again with the next Read
		}
		if err == io.EOF && b.end < 0 {
			b.Size, b.end = b.offset, b.offset
			continue
		}
		if err != nil {
			b.broke(err)
		} else if len(p) == 0 {
			return 0, nil
		}
	}
	return 0, b.err
}

func (b *Body) progress(n int) {
	b.offset += int64(n)
	b.delivered[b.current] = true
	clear(b.failed)
	b.reasons = nil
}

// broke notes that the open stream ended early.
func (b *Body) broke(err error) {
	b.part.Close()
	b.part = nil
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c := b.members[b.current]
	b.fail(c.badAnswer(b.ctx, b.call(), fmt.Errorf("the body broke off at offset %d: %w", b.offset, err)))
}

// fail notes the failure of the current member; the end of the context ends the
// body instead.
func (b *Body) fail(err error) {
	if b.ctx.Err() != nil {
		b.err = b.ctx.Err()
		return
	}
	b.failed[b.current]++
	b.reasons = append(b.reasons, err)
	b.logger.Warn("a download broke off", "upstream", b.members[b.current].Host(), "digest", b.dgst, "offset", b.offset, "error", err)
}

// reopen continues the body on the current member or on the next one that may
// still be tried.
func (b *Body) reopen() {
	for range b.members {
		if b.failed[b.current] < triesPerMember {
			break
		}
		b.current = (b.current + 1) % len(b.members)
	}
	if b.failed[b.current] >= triesPerMember {
		e := &Error{Class: ClassUnavailable, Err: b.reasons}
		b.err = b.members[b.current].identify(e, b.call())
		return
	}
	// A stream that broke is asked for again at once, but not a member that
	// just failed to open it.
	if len(b.reasons) > 1 && b.failed[b.current] > 0 && !sleep(b.ctx, pause(1)) {
		b.err = b.ctx.Err()
		return
	}
	if err := b.open(b.members[b.current]); err != nil {
		b.fail(err)
	}
}

func (b *Body) call() call { return blobCall("", b.repo, b.dgst, "") }

// Reject says that the bytes do not match the digest. That counts as a failure
// of each member that delivered some of them, and for a while chains ask those
// last for this digest. It reports whether a member is left that has not
// failed like that, so that opening the blob anew is worth it.
func (b *Body) Reject() (elsewhere bool) {
	for i, c := range b.members {
		if b.delivered[i] {
			c.rejected.add(b.dgst)
			c.metrics.broken(c.label, opBlob)
		}
	}
	return slices.ContainsFunc(b.members, func(c *Client) bool { return !c.rejected.has(b.dgst) })
}

// Close implements io.Closer.
func (b *Body) Close() error {
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
