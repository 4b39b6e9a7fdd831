package registry

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/shortage"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// Error is an answer that is an error (distribution-spec, "Error Codes").
type Error struct {
	Status     int
	Code       string
	Message    string
	RetryAfter time.Duration // 0: the client is not told
	Challenge  string        // of WWW-Authenticate; empty: there is none
	Detail     *Detail       // nil: there is none
}

// Detail describes an upstream's failure for scripts.
type Detail struct {
	Upstream   string `json:"upstream"`              // host
	Class      string `json:"class"`                 // not_found, denied, rate_limited or unavailable
	Status     int    `json:"status,omitempty"`      // of the upstream's answer, if there was one
	RetryAfter int    `json:"retry_after,omitempty"` // seconds
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// errClientGone stands in the log for a request whose client left before there was
// an answer. No client receives it.
var errClientGone = &Error{Status: 499, Code: "UNKNOWN", Message: "the client has left"}

// loginRetry is the time after which a client that met too many logins may come back: some
// dozen verifications have ended by then.
const loginRetry = 2 * time.Second

// issuerRetry is the time after which an issuer of tokens that was unavailable is asked again.
const issuerRetry = 10 * time.Second

// undecidedRetry is about the time of a registry's restart.
const undecidedRetry = 10 * time.Second

var errInternal = &Error{
	Status: http.StatusInternalServerError, Code: "UNKNOWN",
	Message: "internal error; the mirror's log has the details",
}

// errMethod answers a method that is neither a read nor a write of the distribution API,
// such as OPTIONS, and a write to a path that names no repository. Methods are case
// sensitive (RFC 9110 section 9.1).
var errMethod = &Error{
	Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED",
	Message: "the mirror only answers GET and HEAD",
}

// errSlowRules answers a request for the catalog if no name could be decided about in time.
var errSlowRules = &Error{
	Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", RetryAfter: undecidedRetry,
	Message: "the access rules take too long to decide about the repositories. Try again: the decisions are remembered for a minute",
}

// errNoLength answers a client of HTTP/1.0 if a blob has no size and cannot be stored.
var errNoLength = &Error{
	Status: http.StatusBadGateway, Code: "UNAVAILABLE",
	Message: "the upstream does not report the size of the blob, so an HTTP/1.0 client could not tell whether the transfer broke off. Use HTTP/1.1; in nginx, set proxy_http_version 1.1",
}

// busyRetryAfter lets the lookups that wait end first, most of which take a round trip.
const busyRetryAfter = 2 * time.Second

// toWire is the one place where the failure of a request becomes an answer.
func (h *Handler) toWire(e *entry, err error) *Error {
	var wire *Error
	var failed *upstream.Error
	var noRoute *route.UnknownError
	var offline *namespace.OfflineError
	var loop *LoopError
	var busy *namespace.BusyError
	var undecided *namespace.UndecidedError
	isUpstream := errors.As(err, &failed)
	if denied := h.deniedToWire(e, err); denied != nil {
		return denied
	}
	switch {
	case errors.As(err, &wire):
		return wire
	case errors.As(err, &loop):
		return &Error{Status: http.StatusLoopDetected, Code: "LOOP", Message: h.opts.Explain(e.ns, err)}
	case errors.As(err, &noRoute):
		return &Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: h.opts.Explain(e.ns, err)}
	case errors.As(err, &offline):
		return &Error{Status: http.StatusNotFound, Code: unknown(e.op), Message: h.opts.Explain(e.ns, err)}
	case errors.As(err, &undecided):
		return &Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: h.opts.Explain(e.ns, err), RetryAfter: undecidedRetry}
	case isUpstream:
		return upstreamToWire(e, failed, h.opts.Explain(e.ns, err))
	case errors.Is(err, storage.ErrCorrupt):
		return &Error{Status: http.StatusBadGateway, Code: "UNAVAILABLE", Message: h.opts.Explain(e.ns, err)}
	case errors.Is(err, context.Canceled):
		// The client is still there, so it is the mirror that goes.
		return &Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: "the mirror is shutting down"}
	case errors.As(err, &busy):
		return &Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: busy.Error(), RetryAfter: busyRetryAfter}
	// The process has too many open files, for example. Content is not missing, and a
	// retry may find it.
	case shortage.Of(err) != nil:
		return &Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: "the mirror's machine is short of open files or memory at the moment. Check the log of the mirror", RetryAfter: time.Second}
	default:
		return errInternal
	}
}

func upstreamToWire(e *entry, err *upstream.Error, message string) *Error {
	wire := &Error{
		Message: message,
		Detail:  &Detail{Upstream: err.Host, Class: err.Class.String(), Status: err.Status},
	}
	switch err.Class {
	case upstream.ClassNotFound:
		wire.Status, wire.Code = http.StatusNotFound, unknown(e.op)
		// The upstream's code is more exact: it distinguishes a missing repository from a
		// missing tag. Codes of its own invention are not passed on.
		switch err.Code {
		case "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN":
			wire.Code = err.Code
		}
	case upstream.ClassDenied:
		wire.Status, wire.Code = http.StatusForbidden, "DENIED"
	case upstream.ClassRateLimited:
		wire.Status, wire.Code = http.StatusTooManyRequests, "TOOMANYREQUESTS"
		wire.RetryAfter = max(err.RetryAfter, time.Second)
	default:
		wire.Status, wire.Code = http.StatusBadGateway, "UNAVAILABLE"
		wire.RetryAfter = err.RetryAfter // an upstream in maintenance announces its end
		switch {
		// 503, since this machine is short of something and not the upstream.
		case err.Local():
			wire.Status, wire.RetryAfter = http.StatusServiceUnavailable, time.Second
		// 504 shows clients and proxies that the mirror itself is fine.
		case err.Timeout():
			wire.Status = http.StatusGatewayTimeout
		case err.Loop(): // passed on to the mirror or client at which it began
			wire.Status, wire.Code = http.StatusLoopDetected, "LOOP"
		}
	}
	wire.Detail.RetryAfter = wholeSeconds(wire.RetryAfter)
	return wire
}

// wholeSeconds rounds up so that Retry-After is never too short.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// unknown returns the code for content that does not exist.
func unknown(op Operation) string {
	switch op {
	case OpManifest, OpReferrers:
		return "MANIFEST_UNKNOWN"
	case OpBlob:
		return "BLOB_UNKNOWN"
	default:
		return "NAME_UNKNOWN"
	}
}

// write sends the error as an error document, of a locked mirror or of one that is open to
// all.
func (e *Error) write(w http.ResponseWriter, locked bool) {
	item := oci.ErrorItem{Code: e.Code, Message: e.Message}
	if e.Detail != nil { // a nil *Detail would be written as null
		item.Detail = e.Detail
	}
	header := w.Header()
	for _, name := range []string{"Cache-Control", "Content-Length", "Docker-Content-Digest", "Etag"} {
		header.Del(name)
	}
	if locked {
		header.Set("Cache-Control", refusing)
	}
	if e.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(wholeSeconds(e.RetryAfter)))
	}
	if e.Challenge != "" {
		header.Set("WWW-Authenticate", e.Challenge)
	}
	if e.Status == http.StatusMethodNotAllowed {
		header.Set("Allow", "GET, HEAD") // required by RFC 9110 section 15.5.6
	}
	writeJSON(w, e.Status, "application/json", oci.ErrorDocument{Errors: []oci.ErrorItem{item}})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, value any) {
	body := marshal(value)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left is noticed by its context
}

func marshal(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // only plain values are written here
	}
	return text
}
