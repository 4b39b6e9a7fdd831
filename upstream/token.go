package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/zone"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
)

// maxTokenAnswer bounds the memory for an answer. Tokens go into a header, and
// servers take no header of this size.
const maxTokenAnswer = 64 << 10

// tokenService acquires tokens by the distribution token specification.
type tokenService struct {
	client *Client
}

// fetch asks the realm of the key for a token that a registry at origin wants. The zone
// is that of the registry which named the realm.
func (s *tokenService) fetch(ctx context.Context, origin *url.URL, key tokencache.Key, creds credentials, from zone.Zone) (tokencache.Token, error) {
	ctx, span := startSpan(ctx, "token request")
	token, failure := s.request(ctx, origin, key, creds, from)
	if failure == nil {
		s.client.metrics.token(ClassOK)
		noteAnswer(span, http.StatusOK, ClassOK)
		span.End()
		return token, nil
	}
	failure.Host, failure.Op = s.client.host, opToken
	endFailed(span, failure)
	if !failure.coolingDown { // else no request was sent
		s.client.metrics.token(failure.Class)
	}
	return tokencache.Token{}, failure
}

func (s *tokenService) request(ctx context.Context, origin *url.URL, key tokencache.Key, creds credentials, from zone.Zone) (tokencache.Token, *Error) {
	realm, err := parseRealm(key.Realm, origin)
	if err != nil {
		return tokencache.Token{}, &Error{Class: ClassUnavailable, Err: err}
	}
	if creds.set() && !s.client.trustsRealm(realm) {
		return tokencache.Token{}, &Error{Class: ClassUnavailable, Err: &otherRealmError{realm.Host}}
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(serverOf(realm)...)
	}
	unavailable := func(err error) *Error {
		return &Error{Class: ClassUnavailable, Err: fmt.Errorf("token service %s: %w", realm.Host, err)}
	}
	ctx, cancel := context.WithTimeoutCause(forToken(ctx), s.client.timeToHeaders(), errHeaderTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tokenURL(realm, key).String(), nil)
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	req.Header.Set("Accept", "application/json")
	s.client.setCommonHeaders(req)
	resp, err := followRedirects(req, s.client.maxRedirects, func(req *http.Request) (*http.Response, error) {
		place := s.client.placeOf(ctx, req.URL, ofTokens)
		// Clients of one registry share the limits of its own token service.
		if sameOrigin(origin, s.client.url) && place.client == "" {
			s.client.hearOf(place)
		}
		if refused := s.client.admitted(place); refused != nil {
			refused.Message = "token service " + req.URL.Host + ": " + refused.Message
			return nil, refused
		}
		// A redirect to another host must not get the password.
		if creds.set() && sameOrigin(req.URL, realm) {
			req = authenticated(req, key, creds)
		}
		return s.client.sendBeside(req, place, s.client.transport(s.client.routes, req.URL, from).RoundTrip)
	})
	if refused, ok := errors.AsType[*Error](err); ok {
		return tokencache.Token{}, refused
	}
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return tokencache.Token{}, s.refused(ctx, resp, realm.Host, creds)
	}
	token, err := readToken(resp)
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	return token, nil
}

// refused returns the failure that an answer other than 200 is, and keeps its limit.
func (s *tokenService) refused(ctx context.Context, resp *http.Response, host string, creds credentials) *Error {
	failure := s.refusal(resp, host)
	// "invalid_grant": the token has expired (RFC 6749, section 5.2).
	if creds.identity() && resp.StatusCode == http.StatusBadRequest {
		failure.Class = ClassDenied
	}
	if failure.Class == ClassRateLimited {
		s.client.limited(s.client.placeOf(ctx, resp.Request.URL, ofTokens), failure.RetryAfter)
	}
	return failure
}

// authenticated returns a token request with credentials. An identity token goes into a
// form, as docker sends it (https://distribution.github.io/distribution/spec/auth/oauth/).
func authenticated(req *http.Request, key tokencache.Key, creds credentials) *http.Request {
	req = req.Clone(req.Context())
	if !creds.identity() {
		req.SetBasicAuth(creds.username, creds.password)
		return req
	}
	form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"weir"}, "refresh_token": {creds.password}}
	if key.Service != "" {
		form.Set("service", key.Service)
	}
	if key.Scope != "" {
		form.Set("scope", key.Scope)
	}
	text := form.Encode()
	req.Method, req.ContentLength = http.MethodPost, int64(len(text))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
	req.Body, _ = req.GetBody() // it does not fail
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

// readToken reads the token of an answer of 200.
func readToken(resp *http.Response) (tokencache.Token, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer+1))
	if err != nil {
		return tokencache.Token{}, err
	}
	if len(body) > maxTokenAnswer {
		return tokencache.Token{}, fmt.Errorf("its answer exceeds %d bytes", maxTokenAnswer)
	}
	return parseToken(jsonOf(resp.Header, body, maxTokenAnswer), time.Now())
}

// parseRealm accepts a realm to which credentials may be sent: https, or http if
// the registry itself speaks only that.
func parseRealm(realm string, origin *url.URL) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s names a token service that is not a URL", origin.Host) // the realm may hold anything, so it is not shown
	}
	if u.Scheme != "https" && (u.Scheme != "http" || origin.Scheme != "http") {
		return nil, fmt.Errorf("the token service at %s, which %s names, is refused: it does not use https", u.Host, origin.Host)
	}
	return u, nil
}

// trustsRealm reports whether a token service may get the credentials: one on the
// registry's own host, or Options.TokenRealm. Without that the registry may name any.
func (c *Client) trustsRealm(realm *url.URL) bool {
	switch host := strings.ToLower(realm.Hostname()); {
	case c.tokenRealm == "", host == strings.ToLower(c.url.Hostname()):
		return true
	default:
		return strings.Trim(c.tokenRealm, "[]") == host || c.tokenRealm == net.JoinHostPort(host, portOf(realm))
	}
}

// otherRealmError says that a realm is on another host than Options.TokenRealm.
type otherRealmError struct{ host string }

func (e *otherRealmError) Error() string {
	return "the token service " + e.host + " is not the one that may receive the credentials"
}

func tokenURL(realm *url.URL, key tokencache.Key) *url.URL {
	u := *realm
	query := u.Query()
	if key.Service != "" {
		query.Set("service", key.Service)
	}
	// Those of the realm's own would widen the token beyond its key, or ask for a second one
	// that lives for ever.
	query.Del("scope")
	query.Del("offline_token")
	for scope := range strings.FieldsSeq(key.Scope) {
		query.Add("scope", scope)
	}
	u.RawQuery = query.Encode()
	return &u
}

// refusal returns the failure that an answer without a token means.
func (s *tokenService) refusal(resp *http.Response, host string) *Error {
	e := &Error{Status: resp.StatusCode, Class: ClassUnavailable}
	var message string
	e.Code, message = oci.ReadError(bytes.NewReader(readText(resp, maxTokenAnswer)))
	if !sameOrigin(resp.Request.URL, s.client.url) {
		e.Code, message = foreignWords(e.Code)
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, saysLimited(resp.StatusCode, e.Code):
		e.Class = ClassRateLimited
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		e.Class = ClassDenied
	}
	e.noteRetryAfter(resp.Header, time.Now())
	e.Message = strings.TrimSuffix("token service "+host+": "+message, ": ")
	return e
}
