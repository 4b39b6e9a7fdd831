package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/storage"
)

// Reason is the cause of a failure, as an operator has to know it.
type Reason uint8

// The reasons of failures.
const (
	Other          Reason = iota
	Missing               // there is no such object
	NoBucket              // there is no such bucket
	Denied                // the credentials do not allow it
	BadCredentials        // they are missing, unknown or wrong
	WrongRegion           // the bucket is in another one; see Error.Region
	WrongClock            // that of this machine or of the server
	Throttled             // too many requests
	Conflict              // a condition of a write does not hold
	Unsupported           // the server does not know such a request
	Unreachable           // no connection, no answer, or an answer that broke off
	Failing               // the server reports a failure of its own
	Bounds                // the answer is longer than it may be
	Format                // a later version of Weir has made the keys below the prefix
)

// ErrPaused says that no request was sent, since the last ones failed.
var ErrPaused = errors.New("s3: the bucket is not used at the moment, because the last requests failed")

// Error is a failed operation.
type Error struct {
	Operation string // such as "get"
	Reason    Reason
	Code      string // of S3, such as AccessDenied; "" if the server did not answer with one
	Status    int    // of HTTP, or 0
	Region    string // of the bucket, if the server gives it
	err       error
}

// Error returns the operation and the server's message.
func (e *Error) Error() string {
	if e.err == nil {
		return "s3: " + e.Operation + " failed"
	}
	return fmt.Sprintf("s3: %s: %v", e.Operation, e.err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Is makes a missing object match storage.ErrNotExist.
func (e *Error) Is(target error) bool { return target == storage.ErrNotExist && e.Reason == Missing }

// ReasonOf returns the reason of a failure of this package, or Other.
func ReasonOf(err error) Reason {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Reason
	}
	return Other
}

// isPrecondition reports whether a server refused a write since an object is there, and not
// since another write of it is under way.
func isPrecondition(err error) bool {
	failed, ok := errors.AsType[*Error](err)
	return ok && failed.Reason == Conflict && (failed.Status == http.StatusPreconditionFailed || failed.Code == "PreconditionFailed")
}

// maxMessage bounds the words of the server in messages.
const maxMessage = 300

// byCode are the reasons of the codes that servers answer with.
func byCode(code string) Reason {
	switch code {
	case "NoSuchKey", "NoSuchVersion", "NotFound", "ObjectParentIsFile", "KeyTooLongError":
		return Missing
	case "NoSuchBucket":
		return NoBucket
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed":
		return Denied
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "InvalidClientTokenId", "XAdminUserNotFound":
		return BadCredentials
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException", "InvalidRegion":
		return WrongRegion
	case "RequestTimeTooSkewed", "RequestExpired", "RequestNotReadyYet":
		return WrongClock
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequests", "ServiceUnavailable":
		return Throttled
	// A rule of the bucket may end an upload in parts.
	case "PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "NoSuchUpload":
		return Conflict
	case "NotImplemented", "UnsupportedOperation":
		return Unsupported
	default:
		return Other
	}
}

// byStatus are the reasons of statuses without a code that says more. A 404 is none of a missing
// object then: the account may be missing.
func byStatus(status int) Reason {
	switch {
	case status == http.StatusForbidden, status == http.StatusMethodNotAllowed:
		return Denied
	case status == http.StatusUnauthorized:
		return BadCredentials
	case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:
		return WrongRegion
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return Throttled
	case status == http.StatusConflict, status == http.StatusPreconditionFailed:
		return Conflict
	case status == http.StatusNotImplemented:
		return Unsupported
	case status >= http.StatusInternalServerError:
		return Failing
	default:
		return Other
	}
}

// explain gives a failure of the library its reason. The server's words are foreign: they
// are cut, and made harmless for logs.
func (s *Store) explain(op operation, err error) error {
	if err == nil {
		return nil
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed
	}
	failed := &Error{Operation: string(op), err: err}
	answer, answered := errors.AsType[minio.ErrorResponse](err)
	switch {
	case errors.Is(err, errTooLong):
		failed.Reason = Bounds
	case answered && (answer.StatusCode != 0 || answer.Code != ""):
		failed.Code, failed.Status = printable.Line(answer.Code, 64), answer.StatusCode
		failed.Region = printable.Line(answer.Region, 64)
		if failed.Reason = byCode(answer.Code); failed.Reason == Other {
			failed.Reason = byStatus(answer.StatusCode)
		}
		failed.err = fmt.Errorf("%d %s: %s", answer.StatusCode, failed.Code, printable.Line(answer.Message, maxMessage))
	case isCredentials(err):
		failed.Reason = BadCredentials
	case errors.Is(err, context.Canceled):
		failed.Reason = Other
	default:
		failed.Reason = Unreachable
		failed.err = errors.New(printable.Line(err.Error(), maxMessage))
	}
	// Without the permission to list, S3 hides which objects are missing behind this.
	if failed.Reason == Denied && failed.Status != http.StatusMethodNotAllowed && s.unlisted.Load() && (op == opGet || op == opHead || op == opRead) {
		failed.Reason = Missing
	}
	return failed
}

// isCredentials reports whether no credentials could be had: neither the library nor the
// services of clouds have an error of its own for that.
func isCredentials(err error) bool {
	text := err.Error()
	return strings.Contains(text, "credentials") || strings.Contains(text, "169.254.169.254") || strings.Contains(text, "AssumeRole")
}
