package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/shortage"
	"github.com/weirhq/weir/oci"
)

// The four ways in which an upstream fails. An [*Error] matches the one of its
// class through errors.Is.
var (
	ErrNotFound    = errors.New("upstream: not found")
	ErrDenied      = errors.New("upstream: denied")
	ErrRateLimited = errors.New("upstream: rate limited")
	ErrUnavailable = errors.New("upstream: unavailable")
)

// ErrDigestMismatch says that content does not have the digest by which it was
// requested. An [*Error] wraps it, for callers that distinguish it from other
// failures of its class.
var ErrDigestMismatch = errors.New("content does not match its digest")

// Class says what a failure means for a client that waits for an answer. Classes
// are ordered by how likely a retry is to succeed, least likely first.
type Class uint8

const (
	ClassOK          Class = iota
	ClassNotFound          // the upstream does not have the content
	ClassDenied            // the upstream refuses it to this account
	ClassUnavailable       // the upstream, or the network before it, is broken
	ClassRateLimited       // the upstream limits the rate of requests

	classes // how many there are
)

// String returns the class as metrics name it.
func (c Class) String() string {
	switch c {
	case ClassOK:
		return "ok"
	case ClassNotFound:
		return "not_found"
	case ClassDenied:
		return "denied"
	case ClassUnavailable:
		return "unavailable"
	case ClassRateLimited:
		return "rate_limited"
	default:
		return fmt.Sprintf("class(%d)", uint8(c))
	}
}

func (c Class) sentinel() error {
	switch c {
	case ClassNotFound:
		return ErrNotFound
	case ClassDenied:
		return ErrDenied
	case ClassRateLimited:
		return ErrRateLimited
	case ClassUnavailable:
		return ErrUnavailable
	default:
		return nil
	}
}

// ClassOf returns the class of the [*Error] that err is or wraps, and ClassOK if
// there is none.
func ClassOf(err error) Class {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Class
	}
	return ClassOK
}

// Error is the failure of an upstream. Every failure of this package is one,
// except that a context which is done is reported as that context's error.
type Error struct {
	Host       string        // of the upstream
	Op         string        // "manifest", "blob", "tags", "referrers", "token"
	Repository string        // as the upstream knows it
	Reference  string        // tag or digest; empty for tags
	Status     int           // HTTP status; 0 if no answer came
	Code       string        // OCI error code of the answer; may be empty
	Message    string        // the upstream's own text, shortened and without control characters
	RetryAfter time.Duration // as the upstream asks for, bounded; 0: it does not ask
	Class      Class
	Err        error // the cause; may be nil
	// Credentials is whether a username and a password are configured.
	Credentials bool
	// OnBehalf is whether the request was sent with a client's own credential.
	OnBehalf bool
	// NotAsked is whether the upstream denied a request and did not ask for credentials,
	// so that it never got them (RFC 9110 section 11.6.1).
	NotAsked bool

	root         string   // path of the API that was asked
	others       []*Error // of the other members of a chain
	coolingDown  bool     // no request was sent, because the upstream cools down
	contentRange string   // of an answer of 416
	foreign      bool     // the refusal is not one of a registry
	page         bool     // the refusal is a page for browsers
	part         bool     // a part of a blob was refused, which says nothing about the whole
}

// Error describes the failure for the operator, with those of the other
// members of the chain if there were any.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Host, e.Op)
	if e.Repository != "" {
		fmt.Fprintf(&b, " %s", e.Repository)
	}
	if e.Reference != "" {
		fmt.Fprintf(&b, " %s", e.Reference)
	}
	fmt.Fprintf(&b, ": %s", strings.ReplaceAll(e.Class.String(), "_", " "))
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %d %s", e.Status, http.StatusText(e.Status))
	}
	for _, part := range []string{e.Code, e.Message} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " (retry after %s)", e.RetryAfter.Round(time.Second))
	}
	for _, other := range e.others {
		b.WriteString("; " + other.Error())
	}
	return b.String()
}

// Is reports whether target is the sentinel of the error's class, or oci.ErrNoRange if the
// failure is one of a part alone.
func (e *Error) Is(target error) bool {
	return target != nil && target == e.Class.sentinel() || e.part && target == oci.ErrNoRange
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Answered reports whether the upstream, or one of a chain's, answered the question:
// it may answer differently if the question is put in another way. A rate limit, a
// refused token, and a failed or silent connection are not answers.
func (e *Error) Answered() bool { return slices.ContainsFunc(e.Members(), (*Error).answered) }

func (e *Error) answered() bool {
	if e.Class == ClassRateLimited || e.Op == opToken || e.coolingDown {
		return false
	}
	broken, ok := errors.AsType[*transportError](e.Err)
	// A redirect to a host that cannot be reached is an answer of the registry.
	if ok && !strings.EqualFold(broken.host, e.Host) {
		return !e.Timeout()
	}
	noConnection := ok && !broken.connected
	return !noConnection && !e.Timeout()
}

// answered is [Error.Answered] of any error.
func answered(err error) bool {
	failed, ok := errors.AsType[*Error](err)
	return ok && failed.Answered()
}

// Timeout reports whether one of Weir's own time limits ended the request, so
// that a gateway answers 504 and not 502.
func (e *Error) Timeout() bool { return isTimeout(e.Err) }

// Local reports whether this machine lacked a resource for the request, such as an open
// file, so that the failure says nothing about the upstream.
func (e *Error) Local() bool { return shortage.Of(e.Err) != nil }

// Loop reports whether the request came back to a mirror that it had passed. The
// answer to a HEAD has no code, and no registry has another use for the status.
func (e *Error) Loop() bool { return e.Status == http.StatusLoopDetected }

// looped is [Error.Loop] of any error. No other question leads out of a loop.
func looped(err error) bool {
	failed, ok := errors.AsType[*Error](err)
	return ok && failed.Loop()
}

// NewLoop returns the failure of a blob for which an upstream leads back to the mirror
// that asks for it.
func NewLoop(host, repo string, dgst digest.Digest) *Error {
	return &Error{Host: host, Op: opBlob, Repository: repo, Reference: dgst.String(), Class: ClassUnavailable, Status: http.StatusLoopDetected}
}

// NewGone returns the "not found" that a registry has answered to another replica.
func NewGone(host, repo, reference string, status int, code, message string) *Error {
	return &Error{Host: host, Op: opManifest, Repository: repo, Reference: reference, Class: ClassNotFound, Status: status, Code: code, Message: message}
}

// NewGoneBlob is NewGone for a blob.
func NewGoneBlob(host, repo string, dgst digest.Digest, status int, code, message string) *Error {
	failed := NewGone(host, repo, dgst.String(), status, code, message)
	failed.Op = opBlob
	return failed
}

// NewTooSlow returns the failure of a content for which an upstream took too long, although
// no single request did.
func NewTooSlow(host, repo, reference string) *Error {
	return &Error{Host: host, Repository: repo, Reference: reference, Class: ClassUnavailable, Err: errTooSlow}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// timeoutError is one of Weir's own time limits.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (e timeoutError) Timeout() bool { return true }

const (
	errHeaderTimeout timeoutError = "no answer within the time limit"
	errStalled       timeoutError = "the body stalled for longer than the read timeout"
	errTooSlow       timeoutError = "the answer arrives too slowly"
)

// failures are the errors of several attempts. They deliberately do not unwrap:
// the class of the [Error] that holds them counts, not that of one attempt.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Timeout reports whether the last attempt ended in a time limit.
func (f failures) Timeout() bool { return len(f) > 0 && isTimeout(f[len(f)-1]) }
