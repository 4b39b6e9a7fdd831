package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// singleTime is how long blobs come in one stream after a registry has refused a segment, or
// has shown that segments bring nothing. Its limits, and the line to it, change rarely.
const singleTime = time.Hour

// segments is the knowledge about a registry that decides in how many streams at once one
// large blob of it may come.
type segments struct {
	most   int
	host   string
	logger *slog.Logger

	mu     sync.Mutex
	ranges bool      // the registry, or the host that it redirects to, sends ranges
	single time.Time // until when one stream is the rule
}

var _ oci.Segmenter = (*segments)(nil)

// Segments returns in how many streams a blob may come.
func (s *segments) Segments() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ranges || time.Now().Before(s.single) {
		return 1
	}
	return s.most
}

// Single makes blobs come in one stream for an hour.
func (s *segments) Single(reason string) {
	s.mu.Lock()
	begins := !time.Now().Before(s.single)
	s.single = time.Now().Add(singleTime)
	s.mu.Unlock()
	if begins {
		s.logger.Info("large blobs of the upstream are fetched in one stream for a while", "upstream", s.host, "for", singleTime, "reason", reason)
	}
}

// learn notes whether the answer for a blob shows that ranges of it can be had.
func (s *segments) learn(resp *http.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	units := strings.ToLower(resp.Header.Get("Accept-Ranges"))
	switch {
	case resp.StatusCode == http.StatusPartialContent, strings.Contains(units, "bytes"):
		s.ranges = true
	case units == "none", resp.Request.Header.Get("Range") != "":
		s.ranges = false
	}
}

// segment opens a segment of a blob. All its failures match oci.ErrNoRange. Those that show
// that the registry sends no segments in parallel make one stream the rule.
func (c *Client) segment(ctx context.Context, call call, dgst digest.Digest, offset, end int64) (oci.Blob, error) {
	// A segment under way may go on at its offset.
	if !oci.IsContinuation(ctx) && c.segments.Segments() < 2 {
		return nil, c.noSegment(call, "")
	}
	resp, err := c.do(ctx, call)
	if failed, ok := errors.AsType[*Error](err); ok {
		if !failed.coolingDown && (failed.Class == ClassRateLimited || failed.Class == ClassDenied) {
			c.segments.Single("it refused a range with " + http.StatusText(failed.Status))
		}
		refused := *failed // a copy: callers that wait for one token share its failure
		refused.part = true
		return nil, &refused
	}
	if err != nil {
		return nil, err
	}
	blob, reason := c.openSegment(ctx, call, resp, dgst, offset, end)
	if reason != "" {
		resp.Body.Close()
		return nil, c.noSegment(call, reason)
	}
	return blob, nil
}

// openSegment returns the segment in an answer, or the reason why it has none.
func (c *Client) openSegment(ctx context.Context, call call, resp *http.Response, dgst digest.Digest, offset, end int64) (oci.Blob, string) {
	if resp.StatusCode != http.StatusPartialContent || len(codingsOf(resp.Header)) > 0 {
		return nil, "it answered a range with the whole blob"
	}
	size, err := sizeOf(resp, offset)
	if err != nil || size < end || !oci.AssemblyOf(ctx).SameVersion(size, resp.Header.Get("Etag")) {
		return nil, "it answered a range with bytes of another version of the blob"
	}
	return &stretch{ctx: ctx, client: c, call: call, dgst: dgst, body: resp.Body, size: size, offset: offset, end: end}, ""
}

// noSegment returns the failure of a segment that the registry does not send, and makes one
// stream the rule if there is a reason.
func (c *Client) noSegment(call call, reason string) error {
	if reason == "" {
		return c.identify(&Error{Class: ClassUnavailable, Err: oci.ErrNoRange}, call)
	}
	c.segments.Single(reason)
	return c.identify(&Error{Class: ClassUnavailable, Err: fmt.Errorf("%w: %s", oci.ErrNoRange, reason)}, call)
}
