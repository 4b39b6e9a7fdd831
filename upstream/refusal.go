package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/weirhq/weir/oci"
)

// refusal returns the failure that an answer other than 200 and 206 means, and
// closes the answer's body.
func (c *Client) refusal(resp *http.Response) *Error {
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	var body bytes.Buffer
	whole := &errorReader{ReadCloser: resp.Body}
	resp.Body = whole
	e.Code, e.Message = oci.ReadError(io.TeeReader(bytes.NewReader(readText(resp, maxTokenAnswer)), &body))
	target := resp.Request.URL
	if !sameOrigin(target, c.url) {
		e.Code, e.Message = foreignWords(e.Code)
	}
	// A redirect may lead to another registry, whose answer to a HEAD has no code.
	byRegistry := e.Code != "" || c.ownAPI(target) || resp.Request.Method == http.MethodHead && c.isAPI(target)
	e.Class = classify(resp.StatusCode, e.Code, byRegistry)
	if !byRegistry || e.Class == ClassRateLimited && !c.ownAPI(target) {
		e.Err = &redirectedError{host: target.Host}
	}
	// Without credentials, a challenge asks for them.
	from := c.loginOf(resp.Request.Context())
	asks := !from.set() && resp.Header.Get("WWW-Authenticate") != ""
	// Another registry behind a redirect never gets the credentials.
	sent := resp.Request.Header.Get("Authorization") != "" && (c.ownAPI(target) || !from.set())
	e.NotAsked = e.Class == ClassDenied && !sent && !asks
	// A body that breaks off is no registry's word.
	e.foreign = e.Code == "" && (whole.err != nil || isForeign(body.Bytes()))
	e.page = e.foreign && bytes.HasPrefix(bytes.TrimSpace(oci.TrimMark(body.Bytes())), []byte("<"))
	e.noteRetryAfter(resp.Header, time.Now())
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		e.contentRange = resp.Header.Get("Content-Range")
	}
	return e
}

// errorReader keeps the failure of a read.
type errorReader struct {
	io.ReadCloser
	err error
}

func (r *errorReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// foreignWords returns the part of an error document of another host than the upstream's
// that counts: the code, if it is one of the distribution-spec. Its words must not reach
// clients, since the upstream may have chosen a host that only Weir can ask.
func foreignWords(code string) (known, message string) {
	if saysUnknown(code) || saysOther(code) {
		return code, ""
	}
	return "", ""
}

// classify is the only table from statuses to classes. It takes the code of the error
// document, "" if there is none. Only a registry can say that it does not have a
// content, or gives it to others only: the storage service behind a redirect means
// an expired signature or a lost object. A 400 or 410 means that the name does not
// exist only if a code says so: proxies use them for other errors, which must not
// become "not found".
func classify(status int, code string, byRegistry bool) Class {
	if saysLimited(status, code) {
		return ClassRateLimited
	}
	switch status {
	case http.StatusNotFound:
		if byRegistry {
			return ClassNotFound
		}
		return ClassUnavailable
	case http.StatusBadRequest, http.StatusGone:
		if saysUnknown(code) {
			return ClassNotFound
		}
		return ClassUnavailable
	case http.StatusUnauthorized, http.StatusForbidden:
		if byRegistry {
			return ClassDenied
		}
		return ClassUnavailable
	case http.StatusTooManyRequests:
		return ClassRateLimited
	default:
		return ClassUnavailable
	}
}

// saysLimited reports whether a refusal is a rate limit in spite of its status.
func saysLimited(status int, code string) bool {
	return status >= http.StatusBadRequest && code == "TOOMANYREQUESTS"
}

// peekCode returns the code of an answer's error document, "" if there is none. The
// body can be read again.
func peekCode(resp *http.Response) string {
	var read bytes.Buffer
	begin := &http.Response{Header: resp.Header, Body: io.NopCloser(io.TeeReader(resp.Body, &read))}
	code, _ := oci.ReadError(bytes.NewReader(readText(begin, maxTokenAnswer)))
	resp.Body = peeked{io.MultiReader(&read, resp.Body), resp.Body}
	return code
}

type peeked struct {
	io.Reader
	io.Closer
}

// saysUnknown reports whether a code says that the registry has no such content, or
// can have none of that name.
func saysUnknown(code string) bool {
	switch code {
	case "NAME_UNKNOWN", "NAME_INVALID", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "TAG_INVALID", "DIGEST_INVALID":
		return true
	default:
		return false
	}
}

// saysOther reports whether a code is one of the distribution-spec, or of its
// implementation, that is not about the existence of content. Registries have codes of their own besides, for example
// Harbor's NOT_FOUND.
func saysOther(code string) bool {
	switch code {
	case "UNSUPPORTED", "UNAVAILABLE", "UNKNOWN", "UNAUTHORIZED", "DENIED", "TOOMANYREQUESTS", "PAGINATION_NUMBER_INVALID", "SIZE_INVALID",
		"MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID":
		return true
	default:
		return false
	}
}

// isForeign reports whether the body of a refusal is not what a registry sends, an
// error document or nothing: a web page, or the plain text of a load balancer.
func isForeign(body []byte) bool {
	var document struct {
		Errors []json.RawMessage `json:"errors"`
	}
	return len(bytes.TrimSpace(body)) > 0 && (json.Unmarshal(oci.TrimMark(body), &document) != nil || len(document.Errors) == 0)
}

// Doubt returns a "not found" that may not be a registry's word as a failure of
// [ClassUnavailable]: a load balancer's page says nothing about content that is
// cached. All other errors are returned as they are.
func Doubt(err error) error {
	failed, ok := errors.AsType[*Error](err)
	if !ok || failed.Class != ClassNotFound || !slices.ContainsFunc(failed.Members(), (*Error).doubtful) {
		return err
	}
	doubted := *failed
	doubted.Class = ClassUnavailable
	return &doubted
}

func (e *Error) doubtful() bool { return e.Class == ClassNotFound && (e.foreign || saysOther(e.Code)) }
