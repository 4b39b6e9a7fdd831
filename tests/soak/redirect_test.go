package soak

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	// redirectedClient is the address of the clients that are redirected to the bucket.
	redirectedClient = "127.0.0.2"
	// noRedirect is the header of requests that the mirror has to answer itself.
	noRedirect = "X-Angos-No-Redirect"
)

// readElsewhere reads the bytes of a blob where the mirror has sent the
// client. The mirror promises that the object is there and is not evicted while
// the URL is good (bucket_test.go). For anything else the bucket itself is to
// blame, and the client asks the mirror again.
func (c *client) readElsewhere(ctx context.Context, t target, redirect *http.Response, header http.Header, from, to int64) part {
	truth := c.content.bodies[t.digest]
	said := redirect.Header
	if len(truth) < mib || said.Get("Docker-Content-Digest") != t.digest.String() || said.Get("Cache-Control") != "no-store" {
		return part{failure: c.violation("GET %s: a redirect of %d bytes with the header %v", t.path(c.key), len(truth), said)}
	}
	p := part{elsewhere: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, said.Get("Location"), nil)
	if err != nil {
		p.failure = c.violation("GET %s: %v", t.path(c.key), err)
		return p
	}
	if part := header.Get("Range"); part != "" {
		request.Header.Set("Range", part)
	}
	c.score.redirected.Add(1)
	answer, err := c.http.Do(request)
	if err != nil {
		p.failure = connection
		if ctx.Err() != nil {
			p.failure = over
		}
		return p
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		from, to = 0, int64(len(truth))
	case http.StatusPartialContent:
		if !strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
			p.failure = c.violation("the bucket: Content-Range %q, want from %d on", answer.Header.Get("Content-Range"), from)
			return p
		}
	default:
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, kib))
		p.failure = failure("the bucket: " + answer.Status)
		return p
	}
	p = compare(answer.Body, truth[from:to])
	p.elsewhere = true
	c.score.served.Add(p.read)
	c.score.elsewhere.Add(p.read)
	if ctx.Err() != nil {
		p.failure = over
		return p
	}
	return c.judge(t, p, from, to)
}
