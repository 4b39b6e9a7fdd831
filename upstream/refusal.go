package upstream

import (
	"net/http"
	"strconv"
	"time"

	"github.com/weirhq/weir/oci"
)

const (
	// defaultRetryAfter is for a 429 without Retry-After: long enough to spare the
	// registry, and short enough that an operator need not step in.
	defaultRetryAfter = 60 * time.Second
	// maxRetryAfter bounds how long a wrong or hostile header stops all pulls.
	maxRetryAfter = 15 * time.Minute
)

// refusal returns the failure that an answer other than 200 and 206 means, and
// closes the answer's body.
func (c *Client) refusal(resp *http.Response) *Error {
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
	return e
}

// classify is the only table from statuses to classes. A 400 or 410 means that the
// name does not exist only if a registry answers it: a storage service behind a
// redirect uses them for other errors, which must not become "not found".
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
		// The bound comes before the conversion, which would overflow.
		after = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		after = date.Sub(now)
	}
	return min(max(after, time.Second), maxRetryAfter)
}
