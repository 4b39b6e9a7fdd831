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
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// Blob opens a blob at offset for length bytes, or to its end where length is
// -1. The caller closes the body. The whole of a blob is asked for without a
// Range.
func (c *Client) Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	return openBlob(ctx, c.logger, []*Client{c}, repo, dgst, offset, length)
}

// StatBlob asks whether there is a blob, and for its size. Where the registry
// refuses HEAD or gives no length, it asks for the first byte. The Size is -1
// where even that does not say.
func (c *Client) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: -1}
	resp, err := c.do(ctx, blobCall(http.MethodHead, repo, dgst, ""))
	switch {
	case err == nil:
		resp.Body.Close()
		// Some registries say 0 where they do not know.
		if resp.ContentLength > 0 || dgst == dgst.Algorithm().FromBytes(nil) {
			desc.Size = max(resp.ContentLength, 0)
			return desc, nil
		}
	case !errors.Is(err, ErrHeadUnsupported):
		return ocispec.Descriptor{}, err
	}
	call := blobCall(http.MethodGet, repo, dgst, "bytes=0-0")
	resp, err = c.do(ctx, call)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer discard(resp.Body)
	switch resp.StatusCode {
	case http.StatusPartialContent:
		_, desc.Size, err = parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return ocispec.Descriptor{}, c.badAnswer(ctx, call, err)
		}
	default:
		desc.Size = resp.ContentLength
	}
	return desc, nil
}

func blobCall(method, repo string, dgst digest.Digest, byteRange string) call {
	header := http.Header{"Accept": {"*/*"}}
	if byteRange != "" {
		header.Set("Range", byteRange)
	}
	return call{op: opBlob, method: method, repo: repo, reference: dgst.String(), path: "/blobs/" + dgst.String(), header: header}
}

// part is an open answer that begins where it was asked to.
type part struct {
	io.ReadCloser
	size int64 // of the whole blob; -1: unknown
}

// openPart opens a blob at offset, up to end or to its own end where end is -1.
// The answer may reach further than asked. A size other than -1 must be the
// blob's.
func (c *Client) openPart(ctx context.Context, repo string, dgst digest.Digest, offset, end, size int64) (*part, error) {
	call := blobCall(http.MethodGet, repo, dgst, formatRange(offset, end))
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	p, err := partOf(resp, offset)
	if err == nil && p.size >= 0 && size >= 0 && p.size != size {
		err = fmt.Errorf("the blob's size was %d and is now %d bytes", size, p.size)
	}
	if err != nil {
		resp.Body.Close()
		return nil, c.badAnswer(ctx, call, err)
	}
	return p, nil
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

// partOf checks that an answer begins at offset. A registry that ignores Range
// sends the whole: what comes before offset is read and dropped.
func partOf(resp *http.Response, offset int64) (*part, error) {
	if resp.StatusCode == http.StatusPartialContent {
		start, size, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err == nil && start != offset {
			err = fmt.Errorf("asked for bytes from %d on, it sends them from %d", offset, start)
		}
		return &part{resp.Body, size}, err
	}
	if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
		return nil, fmt.Errorf("skipping to offset %d: %w", offset, err)
	}
	return &part{resp.Body, resp.ContentLength}, nil
}

// unsatisfiedSize reads the size in "bytes */100", the Content-Range of an answer
// of 416 (RFC 9110 section 15.5.17).
func unsatisfiedSize(value string) (size int64, ok bool) {
	unit, total, _ := strings.Cut(value, " */")
	size, err := strconv.ParseInt(total, 10, 64)
	return size, err == nil && size >= 0 && strings.EqualFold(unit, "bytes")
}

// parseContentRange reads "bytes 0-9/100", or "bytes 0-9/*" where the size is
// then -1 (RFC 9110 section 14.4).
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
