package upstream

import (
	"context"
	"errors"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

const (
	// triesPerMember is how often each member may fail, without a byte of
	// progress in between, before a body gives up.
	triesPerMember = 3
	// maxRecoveryWait bounds how long a body, before it gives up, waits for members
	// to be asked again that rest.
	maxRecoveryWait = 15 * time.Second
	// minProgress is less than a stream should deliver before it breaks off:
	// after several such ones the next is asked for with growing pauses.
	minProgress = 64 << 10
	// reopenWait is about the first pause before a member that fails is
	// asked again.
	reopenWait = 500 * time.Millisecond
)

// blobReader is a blob, or a part of one, as it arrives. Where a stream breaks off or
// stalls, the next Read goes on at the same offset (resume.go). It is for one
// goroutine; to end a Read, cancel the context that the body was opened with.
type blobReader struct {
	size     int64  // of the whole blob; -1: unknown
	upstream string // host of the member that delivers now

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

	hash      hash.Hash // of all bytes so far; nil where the size tells the end
	ended     int64     // where a stream ended, which is not believed yet; -1: nowhere
	delivered []bool    // members that some bytes came from
	err       error     // what ended the body

	// Since the last byte, but for trickles:
	failed       []int // failures of each member
	reasons      failures
	recoveryWait time.Duration // for members that rest
	streamed     int64         // bytes of the open stream
	trickles     int           // streams in a row that broke off early
}

// openBlob opens a blob on the first member that has the blob.
func openBlob(ctx context.Context, logger *slog.Logger, members []*Client, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	b := &blobReader{
		ctx: ctx, logger: logger, repo: repo, dgst: dgst, members: members,
		size: -1, offset: offset, limit: -1, end: -1, ended: -1,
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
	if offset == 0 && b.end < 0 {
		b.hash = dgst.Algorithm().Hash()
	}
	return b, nil
}

// open opens the rest of the body on a member.
func (b *blobReader) open(c *Client) error {
	p, err := c.openPart(b.ctx, b.repo, b.dgst, b.offset, b.limit, b.size)
	if b.nothingLeft(err) {
		b.size, b.end = b.offset, b.offset
		b.upstream, b.current = c.Host(), slices.Index(b.members, c)
		return nil
	}
	if err != nil {
		return err
	}
	b.part, b.upstream, b.current = p, c.Host(), slices.Index(b.members, c)
	b.streamed = 0
	if b.size < 0 && p.size >= 0 {
		b.size = p.size
		if b.end < 0 || b.end > b.size {
			b.end = b.size
		}
	}
	return nil
}

// nothingLeft reports whether an error says that the blob, whose size nobody
// has told so far, ends right here. A range that a caller asked for and that
// begins beyond the end stays the error it is.
func (b *blobReader) nothingLeft(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != http.StatusRequestedRangeNotSatisfiable || b.size >= 0 {
		return false
	}
	begun := slices.Contains(b.delivered, true)
	if b.limit >= 0 && !begun {
		return false
	}
	size, told := unsatisfiedSize(e.contentRange)
	return told && size == b.offset || !told && begun
}

// Size returns the length of the whole blob, -1 if it is not known.
func (b *blobReader) Size() int64 { return b.size }

// Upstream returns the host of the member that delivers now.
func (b *blobReader) Upstream() string { return b.upstream }

// Read implements io.Reader. It fails with an *Error of [ClassUnavailable] when
// every member failed three times without a byte of progress, or with the
// context's error.
func (b *blobReader) Read(p []byte) (int, error) {
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
			b.progress(p[:n])
			return n, nil // an error comes again with the next Read
		}
		switch {
		case err == io.EOF && b.end < 0 && b.complete():
			b.size, b.end = b.offset, b.offset
		case err != nil:
			b.broke(err)
		case len(p) == 0:
			return 0, nil
		}
	}
	return 0, b.err
}

// complete reports whether the end of a stream is the end of the blob, whose
// size nobody has told. It is where the digest says so, or a second stream ends
// there: a connection that is closed early may look like an end too.
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
	b.streamed += int64(len(p))
	b.delivered[b.current] = true
	if b.hash != nil {
		b.hash.Write(p)
	}
	clear(b.failed)
	b.reasons, b.recoveryWait = nil, 0
}

func (b *blobReader) call() call { return blobCall("", b.repo, b.dgst, "") }

// Reject says that the bytes do not match the digest. That counts as a failure
// of each member that delivered some of them, and for a while chains ask those
// last for this digest. A member that delivered all of them, and those of other
// digests before, rests. Reject reports whether a member is left that has not
// failed like that, so that opening the blob anew is worth it.
func (b *blobReader) Reject() (elsewhere bool) {
	culprits := 0
	for _, delivered := range b.delivered {
		if delivered {
			culprits++
		}
	}
	for i, c := range b.members {
		switch {
		case !b.delivered[i]:
			continue
		case culprits == 1:
			c.reject(b.dgst)
		default: // one of them; which one, nobody knows
			c.rejected.add(b.dgst)
		}
		c.metrics.broken(opBlob)
		c.metrics.mismatch()
	}
	return slices.ContainsFunc(b.members, func(c *Client) bool { return !c.rejected.has(b.dgst) })
}

// Close implements io.Closer.
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
