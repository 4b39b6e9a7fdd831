package upstream

import (
	"net/http"
	"strconv"
	"time"

	"github.com/weirhq/weir/oci"
)

const (
	defaultRetryAfter = 60 * time.Second
	maxRetryAfter     = 15 * time.Minute
)

// refusal turns an answer that is neither 200 nor 206 into what it means, and
// closes its body.
func (c *Client) refusal(resp *http.Response, method string) *Error {
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	e.Code, e.Message = oci.ReadError(resp.Body)
	e.Class = classify(resp.StatusCode, e.Code != "" || sameOrigin(resp.Request.URL, c.url))
	if e.Class == ClassRateLimited {
		e.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		e.contentRange = resp.Header.Get("Content-Range")
	}
	if method == http.MethodHead {
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed:
			e.Err = ErrHeadUnsupported
		}
	}
	return e
}

// classify is the one table of what a status means. A 400 or 410 is about the
// name only where a registry says it: a storage service behind a redirect uses
// them for other complaints, which must not look like "not found".
func classify(status int, byRegistry bool) Class {
	switch status {
	case http.StatusNotFound:
		return ClassNotFound
	case http.StatusBadRequest, http.StatusGone:
		if byRegistry {
			return ClassNotFound
		}
		return ClassUnavailable
	case http.StatusUnauthorized, http.StatusForbidden:
		return ClassDenied
	case http.StatusTooManyRequests:
		return ClassRateLimited
	default:
		return ClassUnavailable
	}
}

// parseRetryAfter reads seconds or an HTTP date (RFC 9110 section 10.2.3).
func parseRetryAfter(value string, now time.Time) time.Duration {
	after := defaultRetryAfter
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		after = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		after = date.Sub(now)
	}
	return min(max(after, time.Second), maxRetryAfter)
}
