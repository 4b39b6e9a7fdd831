package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

const (
	// smallBody is the size in bytes up to which an encoded body is read whole, so that
	// its digest decides before the first byte is delivered: configs are far smaller.
	smallBody = 1 << 20
	// maxReadings bounds the memory for the blobs that came with a coding.
	maxReadings = 1024
)

// reading is how the body of a blob that comes with a coding is to be read.
type reading struct {
	decoded bool
	final   bool // the digest decided, or the other way has failed
}

// encodedBlob opens a blob whose answer has codings: at offset, up to end or, if that is
// -1, to its end. A small one is read as its digest says. A large one is streamed, so its
// reading is a guess: if it has no length, a proxy compresses it on the fly, and else a
// storage service keeps it compressed. If the digest contradicts, the next attempt reads
// it the other way (see [clientHealth.Reject]).
func (c *Client) encodedBlob(ctx context.Context, call call, resp *http.Response, dgst digest.Digest, offset, end int64) (oci.Blob, error) {
	known, _ := c.readings.Get(dgst)
	if resp.StatusCode == http.StatusPartialContent {
		if !known.decoded {
			return c.plainBlob(ctx, call, resp, dgst, offset, end)
		}
		// A part of the encoded bytes cannot be decoded.
		resp.Body.Close()
		whole := blobCall(http.MethodGet, call.repo, dgst, "")
		var err error
		if resp, err = c.do(ctx, whole); err != nil {
			return nil, err
		}
	}
	codings := codingsOf(resp.Header)
	begin, err := io.ReadAll(io.LimitReader(resp.Body, smallBody+1))
	if err != nil {
		resp.Body.Close()
		return nil, c.badAnswer(ctx, call, fmt.Errorf("reading the body: %w", err))
	}
	body := io.Reader(bytes.NewReader(begin))
	if len(begin) <= smallBody {
		if known.decoded, err = c.decide(dgst, begin, codings); err != nil {
			resp.Body.Close()
			return nil, c.badAnswer(ctx, call, err)
		}
	} else {
		body = io.MultiReader(body, resp.Body)
		_, undecodable := newDecoder(bytes.NewReader(begin), codings)
		if !known.final {
			known.decoded = resp.ContentLength < 0 && undecodable == nil
		}
		if undecodable == nil { // else there is one reading only
			c.readings.Add(dgst, known)
		}
	}
	if !known.decoded {
		resp.Body = readCloser{body, resp.Body}
		return c.plainBlob(ctx, call, resp, dgst, offset, end)
	}
	decoder, err := newDecoder(body, codings)
	if err == nil {
		_, err = io.CopyN(io.Discard, decoder, offset)
	}
	if err != nil {
		resp.Body.Close()
		return nil, c.badAnswer(ctx, call, fmt.Errorf("decoding up to offset %d: %w", offset, err))
	}
	return &stretch{ctx: ctx, client: c, call: call, dgst: dgst, body: readCloser{decoder, resp.Body}, size: -1, offset: offset, end: end}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// decide returns whether a whole body has to be decoded to have its digest.
func (c *Client) decide(dgst digest.Digest, body []byte, codings []string) (decoded bool, err error) {
	raw := dgst.Verifier()
	raw.Write(body)
	if raw.Verified() {
		c.readings.Add(dgst, reading{final: true})
		return false, nil
	}
	verifier := dgst.Verifier()
	decoder, err := newDecoder(bytes.NewReader(body), codings)
	if err == nil {
		_, err = io.Copy(verifier, decoder)
	}
	if err == nil && verifier.Verified() {
		c.readings.Add(dgst, reading{decoded: true, final: true})
		return true, nil
	}
	if err == nil {
		err = ErrDigestMismatch
	}
	c.reject(dgst)
	c.metrics.mismatch()
	return false, &encodingError{codings, ErrDigestMismatch, err}
}

// readOtherwise notes that a blob did not have its digest. It reports whether the blob
// came with a coding and has not been read the other way yet.
func (c *Client) readOtherwise(dgst digest.Digest) bool {
	known, ok := c.readings.Get(dgst)
	if !ok || known.final {
		c.readings.Remove(dgst)
		return false
	}
	c.readings.Add(dgst, reading{decoded: !known.decoded, final: true})
	c.logger.Warn("a blob does not match its digest and has a Content-Encoding that was not requested. From now on, Weir interprets the encoding the other way. Check for a proxy that compresses, or the metadata of the registry's storage",
		"upstream", c.host, "digest", dgst, "decoded", !known.decoded)
	return true
}
