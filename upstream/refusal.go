package upstream

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxErrorBody      = 64 << 10
	maxMessage        = 300 // bytes
	maxCode           = 64  // bytes
	defaultRetryAfter = 60 * time.Second
	maxRetryAfter     = 15 * time.Minute
)

// refusal turns an answer that is neither 200 nor 206 into what it means, and
// closes its body.
func (c *Client) refusal(resp *http.Response, method string) *Error {
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	e.Code, e.Message = readErrorBody(resp)
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

// readErrorBody returns the code and message of the first error in an OCI error
// document, or the text where it is plain.
func readErrorBody(resp *http.Response) (code, message string) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return "", ""
	}
	var document struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &document) == nil && len(document.Errors) > 0 {
		return cleanCode(document.Errors[0].Code), clean(document.Errors[0].Message)
	}
	if text := string(body); !strings.HasPrefix(strings.TrimSpace(text), "<") { // HTML and XML tell people nothing here
		return "", clean(text)
	}
	return "", ""
}

// clean makes foreign words fit for a log line and a header.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// cleanCode lets through what looks like a code of the specification.
func cleanCode(code string) string {
	if len(code) > maxCode || strings.ContainsFunc(code, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) {
		return ""
	}
	return code
}
