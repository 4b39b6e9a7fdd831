package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
)

var (
	errTooManyRedirects = errors.New("too many redirects")
	errRedirectLoop     = errors.New("redirect loop")
	errNoLocation       = errors.New("redirect without a usable Location")
	errDowngrade        = errors.New("redirect from https to http refused")
)

// maxHost bounds the name of a host with its port, which limits of hosts and error
// messages keep. Names have at most 253 characters (RFC 1035 section 2.3.4).
const maxHost = 253 + len(":65535")

// followRedirects sends a GET or HEAD and follows at most limit redirects, never
// from https to http and never twice to the same URL. Each request has the headers
// of the first one, which therefore must not contain credentials: send adds those by
// the request's URL.
func followRedirects(req *http.Request, limit int, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	seen := map[string]bool{req.URL.String(): true}
	for hop := 0; ; hop++ {
		resp, err := send(req)
		if err != nil || !isRedirect(resp.StatusCode) {
			return resp, err
		}
		location, err := resp.Location() // resolves a relative one
		discard(resp.Body)
		if err != nil {
			// The Location may hold a signature, so the error does not show it.
			return nil, fmt.Errorf("%w from %s", errNoLocation, req.URL.Host)
		}
		next, err := redirected(req, location)
		switch {
		case err != nil:
			return nil, err
		case seen[location.String()]:
			// Reported as a loop before the limit, which no setting would cure.
			return nil, fmt.Errorf("%w at %s", errRedirectLoop, location.Host)
		case hop == limit:
			return nil, fmt.Errorf("%w: more than %d, the last one to %s", errTooManyRedirects, limit, location.Host)
		}
		noteRedirect(req.Context(), location)
		seen[location.String()] = true
		req = next
	}
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	default:
		return false
	}
}

func redirected(req *http.Request, location *url.URL) (*http.Request, error) {
	switch {
	case location.Scheme != "http" && location.Scheme != "https" || location.Host == "":
		return nil, fmt.Errorf("%s redirects to something other than http or https", req.URL.Host)
	case len(location.Host) > maxHost:
		return nil, fmt.Errorf("%s redirects to a host whose name is too long", req.URL.Host)
	case req.URL.Scheme == "https" && location.Scheme == "http":
		return nil, fmt.Errorf("%w: to %s", errDowngrade, location.Host)
	}
	next := req.Clone(req.Context())
	next.URL, next.Host = location, "" // an empty Host is that of the URL
	return next, nil
}

// discard closes a body that is of no use. It reads a short body first, so that
// the connection can be used again.
func discard(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 4<<10)
	body.Close()
}

// isBelow reports whether the path of a URL is a root, which ends with a slash, or
// lies below it (distribution-spec, "Endpoints").
func isBelow(u *url.URL, root string) bool { return strings.HasPrefix(path.Clean(u.Path)+"/", root) }

// redirectedError says that a failure is that of the host behind a redirect, such as
// a storage service, and not the registry's.
type redirectedError struct{ host string }

func (e *redirectedError) Error() string {
	return "the answer comes from " + e.host + ", to which it redirects"
}
