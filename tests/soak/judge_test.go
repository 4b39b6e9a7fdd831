package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// failure is why an answer was no use, in the report's words. None of them is
// wrong as such: a client tries again.
type failure string

const (
	fine       failure = ""
	connection failure = "connection refused or reset"
	cut        failure = "body cut"
	refused    failure = "wrong bytes of the bucket, refused by the client"
	over       failure = "the soak is over"
	unexpected failure = "violation"
)

// hung is how long an answer may take altogether. Nothing that the troublemaker
// does lasts that long.
const hung = 2 * time.Minute

// lieWindow is how long after a proxy has changed a byte a client may come by
// it: in a body that then does not end well, or in a part of one.
const lieWindow = 30 * time.Second

// target is one blob, under a name that the mirror serves.
type target struct {
	repo, kind, ref string // soak/app0, manifests, v1
	digest          digest.Digest
}

func (t target) path(key string) string {
	return "/v2/" + key + "/" + t.repo + "/" + t.kind + "/" + t.ref
}

// upstreamPath is the path at an upstream.
func (t target) upstreamPath() string { return "/v2/" + t.repo + "/" + t.kind + "/" + t.ref }

func manifest(repo, ref string, dgst digest.Digest) target {
	return target{repo, "manifests", ref, dgst}
}

func blob(repo string, dgst digest.Digest) target { return target{repo, "blobs", dgst.String(), dgst} }

// part is the result of a request for some bytes of a blob.
type part struct {
	read  int64 // bytes that arrived
	wrong bool  // some of them are not the content's
	// elsewhere is set if they are the bucket's, and not the mirror's.
	elsewhere bool
	failure
}

// request sends a request, counts its answer and returns that if its status is
// a success. Errors that no client may see are violations.
func (c *client) request(ctx context.Context, method, path string, header http.Header) (*http.Response, failure) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, method, c.mirrors.pick().URL()+path, nil)
	if err != nil {
		return nil, c.violation("%s %s: %v", method, path, err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := c.http.Do(req)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errHung):
		return nil, c.violation("%s %s: no answer for %s", method, path, hung)
	case ctx.Err() != nil:
		if err == nil {
			resp.Body.Close()
		}
		return nil, over
	case err != nil:
		if !c.weather.wasDark(start) {
			c.score.explained(fmt.Sprintf("%s %s, Range %q: %v", method, path, header.Get("Range"), err))
		}
		return nil, connection
	}
	c.score.answered(resp.Header)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, fine
	case http.StatusTemporaryRedirect:
		if c.follows && method == http.MethodGet && strings.Contains(path, "/blobs/") && header.Get(noRedirect) == "" {
			return resp, fine
		}
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, kib)) // it is for the report only
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		if !c.weather.wasDark(start) {
			c.score.explained(fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, said))
		}
		if strings.Contains(string(said), "backing off after") {
			return nil, failure(resp.Status + ", an upstream rests")
		}
		return nil, failure(resp.Status)
	}
	return nil, c.violation("%s %s: %s: %s", method, path, resp.Status, said)
}

var errHung = errors.New("the answer takes too long")

// read asks for the bytes of a blob from one offset up to, and without,
// another, and compares those that come with the truth. It wants them from the
// mirror itself if here is set.
func (c *client) read(ctx context.Context, t target, from, to int64, here bool) part {
	start := time.Now()
	p := c.readPart(ctx, t, from, to, here)
	c.score.failed(p.failure, !c.weather.wasDark(start))
	return p
}

func (c *client) readPart(ctx context.Context, t target, from, to int64, here bool) part {
	ctx, cancel := context.WithTimeoutCause(ctx, hung, errHung)
	defer cancel()
	truth := c.content.bodies[t.digest]
	header := c.accept()
	if from > 0 || to < int64(len(truth)) {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	if here {
		header.Set(noRedirect, "1")
	}
	resp, failed := c.request(ctx, http.MethodGet, t.path(c.key), header)
	if failed != fine {
		return part{failure: failed}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusTemporaryRedirect {
		return c.readElsewhere(ctx, t, resp, header, from, to)
	}
	if resp.StatusCode == http.StatusOK {
		from, to = 0, int64(len(truth))
	} else if got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(truth)); got != want {
		return part{failure: c.violation("GET %s: Content-Range %q, want %q", t.path(c.key), got, want)}
	}
	if failed := c.checkHeader(resp, t, to-from); failed != fine {
		return part{failure: failed}
	}
	p := compare(resp.Body, truth[from:to])
	c.score.served.Add(p.read)
	if ctx.Err() != nil && context.Cause(ctx) != errHung {
		p.failure = over
	}
	return c.judge(t, p, from, to)
}

// checkHeader compares the header of an answer with the truth.
func (c *client) checkHeader(resp *http.Response, t target, length int64) failure {
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return c.violation("%s %s: %d bytes, want %d", resp.Request.Method, t.path(c.key), resp.ContentLength, length)
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != t.digest.String() {
		return c.violation("%s %s: digest %q, want %s", resp.Request.Method, t.path(c.key), got, t.digest)
	}
	if t.kind == "manifests" && resp.Header.Get("Content-Type") != c.content.types[t.digest] {
		return c.violation("%s %s: Content-Type %q, want %q", resp.Request.Method, t.path(c.key), resp.Header.Get("Content-Type"), c.content.types[t.digest])
	}
	return fine
}

// compare reads a body to its end and compares it with the truth.
func compare(body io.Reader, truth []byte) part {
	var p part
	buf := make([]byte, chunk)
	for {
		n, err := body.Read(buf)
		left := truth[min(p.read, int64(len(truth))):]
		p.wrong = p.wrong || !bytes.HasPrefix(left, buf[:n])
		p.read += int64(n)
		if err == io.EOF {
			return p
		}
		if err != nil {
			p.failure = cut
			return p
		}
	}
}

// judge finds the answers that a client must never get: a body that ended well
// and is short, or is the whole and wrong; and any wrong byte while no upstream
// lies. Bytes that come before a blob is verified, of a body that then
// breaks off or of a part that was asked for, can be wrong while an upstream
// lies. Their client finds that out by the digest, and begins again.
func (c *client) judge(t target, p part, from, to int64) part {
	whole := from == 0 && to == int64(len(c.content.bodies[t.digest]))
	clean := p.failure == fine
	lied := c.lastLie().Add(lieWindow).After(time.Now())
	switch {
	case p.elsewhere && lied && clean && whole && p.wrong:
		c.score.unverified.Add(1) // the bucket verifies nothing, and its client does
		p.failure = refused
	case p.elsewhere && lied && clean && p.read < to-from:
		p.failure = cut
	case clean && p.read < to-from:
		p.failure = c.violation("GET %s: %d bytes of %d, under a clean end", t.path(c.key), p.read, to-from)
	case p.wrong && (clean && whole || !lied):
		p.failure = c.violation("GET %s, bytes %d to %d: wrong bytes (clean end: %t, an upstream lied: %t)", t.path(c.key), from, to, clean, lied)
	case p.wrong:
		c.score.unverified.Add(1)
	}
	return p
}

// head asks for a blob without its body.
func (c *client) head(ctx context.Context, t target) failure {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, hung, errHung)
	defer cancel()
	resp, failed := c.request(ctx, http.MethodHead, t.path(c.key), c.accept())
	if failed == fine {
		resp.Body.Close()
		failed = c.checkHeader(resp, t, int64(len(c.content.bodies[t.digest])))
	}
	c.score.failed(failed, !c.weather.wasDark(start))
	return failed
}

// accept returns the media types that docker accepts.
func (c *client) accept() http.Header {
	return http.Header{"Accept": {ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest}}
}
