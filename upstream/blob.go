package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/oci"
)

// errBlobTooLarge says that a blob exceeds Options.MaxBlobSize.
var errBlobTooLarge = errors.New("the blob is too large")

// checkSize returns errBlobTooLarge if a blob of at least size bytes is refused.
func (c *Client) checkSize(size int64) error {
	if c.maxBlobSize > 0 && size > c.maxBlobSize {
		return fmt.Errorf("%w: more than %s", errBlobTooLarge, units.IEC(c.maxBlobSize))
	}
	return nil
}

// Blob opens a blob at offset for length bytes, or to its end if length is -1.
// The caller closes it. A stream that breaks off is an error; a [Chain], of one
// member or many, continues it. The request for a whole blob has no Range. A blob
// that is too large is refused at its announcement or, without one, at the first
// byte too many.
func (c *Client) Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	end := int64(-1)
	if length >= 0 {
		end = offset + length
	}
	call := blobCall(http.MethodGet, repo, dgst, formatRange(offset, end))
	// No request for bytes that would be refused, as after the first byte too many.
	if err := c.checkSize(offset); err != nil {
		return nil, c.badAnswer(ctx, call, err)
	}
	if oci.IsSegment(ctx) {
		return c.segment(ctx, call, dgst, offset, end)
	}
	part := oci.IsPart(ctx) && end >= 0
	resp, err := c.do(ctx, call)
	if err != nil {
		if part {
			err = withoutPart(err)
		}
		return nil, err
	}
	encoded := len(codingsOf(resp.Header)) > 0
	c.segments.learn(resp)
	// Skipping to a sample could cost gigabytes, and a part of an encoded body is not
	// a part of the blob.
	if (oci.IsSample(ctx) && end >= 0 || part) && (encoded || resp.StatusCode != http.StatusPartialContent) {
		resp.Body.Close()
		return nil, c.identify(&Error{Class: ClassUnavailable, Err: oci.ErrNoRange}, call)
	}
	if encoded {
		return c.encodedBlob(ctx, call, resp, dgst, offset, end)
	}
	return c.plainBlob(ctx, call, resp, dgst, offset, end)
}

// withoutPart makes a refusal match oci.ErrNoRange, if the registry may send the bytes with the
// whole blob: a firewall, for example, may refuse every Range.
func withoutPart(err error) error {
	failed, ok := errors.AsType[*Error](err)
	if !ok || failed.Class != ClassDenied {
		return err
	}
	refused := *failed // a copy: callers that wait for one token share its failure
	refused.part = true
	return &refused
}

// plainBlob opens a blob in an answer whose bytes are those of the blob: at offset, up to
// end or, if that is -1, to its end.
func (c *Client) plainBlob(ctx context.Context, call call, resp *http.Response, dgst digest.Digest, offset, end int64) (oci.Blob, error) {
	size, err := sizeOf(resp, offset)
	if err == nil {
		err = c.checkSize(size)
	}
	if err != nil {
		resp.Body.Close()
		return nil, c.badAnswer(ctx, call, err)
	}
	if size >= 0 && (end < 0 || end > size) {
		end = size // so that Read notices a body that ends early
	}
	oci.AssemblyOf(ctx).Began(c.host, size, resp.Header.Get("Etag"), c.segments)
	return &stretch{ctx: ctx, client: c, call: call, dgst: dgst, body: resp.Body, size: size, offset: offset, end: end}, nil
}

// stretch is the body of one answer: a blob from an offset on.
type stretch struct {
	ctx    context.Context
	client *Client
	call   call
	dgst   digest.Digest
	body   io.ReadCloser
	size   int64 // of the whole blob; -1 if unknown
	offset int64 // of the next byte
	end    int64 // exclusive; -1: where the body ends
}

func (s *stretch) Size() int64 { return s.size }

func (s *stretch) Upstream() string { return s.client.host }

// Read returns an *Error if the body ends early.
func (s *stretch) Read(p []byte) (int, error) {
	if s.end >= 0 {
		if s.offset >= s.end {
			return 0, io.EOF // a registry may send more than the requested range
		}
		p = p[:min(int64(len(p)), s.end-s.offset)]
	}
	n, err := s.body.Read(p)
	s.offset += int64(n)
	if err := s.client.checkSize(s.offset); err != nil {
		return 0, s.client.badAnswer(s.ctx, s.call, err)
	}
	switch {
	case n > 0:
		return n, nil // an error comes again with the next Read
	case err == io.EOF && s.end >= 0:
		err = io.ErrUnexpectedEOF
	case err == nil || err == io.EOF:
		return 0, err // a clean EOF, which the caller has to verify: the end is unknown
	}
	return 0, s.client.badAnswer(s.ctx, s.call, fmt.Errorf("the body broke off at offset %d: %w", s.offset, err))
}

func (s *stretch) Close() error { return s.body.Close() }

// Reject reports that there is no other registry to open the blob on.
func (s *stretch) Reject() (elsewhere bool) {
	s.client.Health().Reject(s.dgst, true)
	return false
}

func blobCall(method, repo string, dgst digest.Digest, byteRange string) call {
	header := http.Header{"Accept": {"*/*"}}
	if byteRange != "" {
		header.Set("Range", byteRange)
	}
	return call{op: opBlob, limit: ofBlobs, method: method, repo: repo, reference: dgst.String(), path: "/blobs/" + dgst.String(), header: header}
}

func formatRange(offset, end int64) string {
	switch {
	case end >= 0:
		return fmt.Sprintf("bytes=%d-%d", offset, end-1)
	case offset > 0:
		return fmt.Sprintf("bytes=%d-", offset)
	default:
		return ""
	}
}

// sizeOf checks that an answer begins at offset, and returns the size of the
// whole blob, or -1 if the answer has none. If the registry ignores Range and
// sends the whole blob, sizeOf reads and drops the bytes before offset.
func sizeOf(resp *http.Response, offset int64) (int64, error) {
	if resp.StatusCode == http.StatusPartialContent {
		start, size, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err == nil && start != offset {
			err = fmt.Errorf("bytes were requested from %d on, but it sent them from %d", offset, start)
		}
		return size, err
	}
	if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
		return -1, fmt.Errorf("skipping to offset %d: %w", offset, err)
	}
	return resp.ContentLength, nil
}

// unsatisfiedSize reads the size in "bytes */100", the Content-Range of an answer
// of 416 (RFC 9110 section 15.5.17).
func unsatisfiedSize(value string) (size int64, ok bool) {
	unit, total, _ := strings.Cut(value, " */")
	size, err := strconv.ParseInt(total, 10, 64)
	return size, err == nil && size >= 0 && strings.EqualFold(unit, "bytes")
}

// parseContentRange reads "bytes 0-9/100", or "bytes 0-9/*", for which size is -1
// (RFC 9110 section 14.4).
func parseContentRange(value string) (start, size int64, err error) {
	malformed := errors.New("malformed Content-Range in the answer")
	unit, rest, _ := strings.Cut(value, " ")
	positions, total, ok := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(positions, "-")
	if !ok || !ok2 || !strings.EqualFold(unit, "bytes") {
		return 0, -1, malformed
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	size, err3 := int64(-1), error(nil)
	if total != "*" {
		size, err3 = strconv.ParseInt(total, 10, 64)
	}
	if errors.Join(err1, err2, err3) != nil || start < 0 || end < start || size >= 0 && end >= size || total != "*" && size < 0 {
		return 0, -1, malformed
	}
	return start, size, nil
}
