package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
)

const (
	// maxTokenAnswer bounds the memory for an answer. Tokens go into a header, and
	// servers take no header of this size.
	maxTokenAnswer = 64 << 10
	// defaultTokenLife is that of the distribution token specification.
	defaultTokenLife = 60 * time.Second
	// maxTokenLife keeps an absurd expires_in from overflowing a time.Duration.
	maxTokenLife = 365 * 24 * time.Hour
)

// tokenService acquires tokens by the distribution token specification.
type tokenService struct {
	client *Client
}

// fetch asks the realm of the key for a token that a registry at origin wants.
func (s *tokenService) fetch(ctx context.Context, origin *url.URL, key tokencache.Key, creds credentials) (tokencache.Token, error) {
	ctx, span := startSpan(ctx, "token request")
	token, failure := s.request(ctx, origin, key, creds)
	if failure == nil {
		s.client.metrics.token(ClassOK)
		noteAnswer(span, http.StatusOK, ClassOK)
		span.End()
		return token, nil
	}
	failure.Host, failure.Op = s.client.host, opToken
	endFailed(span, failure)
	s.client.metrics.token(failure.Class)
	return tokencache.Token{}, failure
}

func (s *tokenService) request(ctx context.Context, origin *url.URL, key tokencache.Key, creds credentials) (tokencache.Token, *Error) {
	realm, err := parseRealm(key.Realm, origin)
	if err != nil {
		return tokencache.Token{}, &Error{Class: ClassUnavailable, Err: err}
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(serverOf(realm)...)
	}
	unavailable := func(err error) *Error {
		return &Error{Class: ClassUnavailable, Err: fmt.Errorf("token service %s: %w", realm.Host, err)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.client.timeToHeaders(), errHeaderTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tokenURL(realm, key).String(), nil)
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	req.Header.Set("Accept", "application/json")
	s.client.setCommonHeaders(req)
	resp, err := followRedirects(req, s.client.maxRedirects, func(req *http.Request) (*http.Response, error) {
		// A redirect to another host must not get the password.
		if creds.set() && sameOrigin(req.URL, realm) {
			req = req.Clone(req.Context())
			req.SetBasicAuth(creds.username, creds.password)
		}
		return s.client.transport(req.URL).RoundTrip(req)
	})
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return tokencache.Token{}, tokenRefusal(resp, realm.Host)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer+1))
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	if len(body) > maxTokenAnswer {
		return tokencache.Token{}, unavailable(fmt.Errorf("its answer exceeds %d bytes", maxTokenAnswer))
	}
	token, err := parseToken(body, time.Now())
	if err != nil {
		return tokencache.Token{}, unavailable(err)
	}
	return token, nil
}

// parseRealm accepts a realm to which credentials may be sent: https, or http if
// the registry itself speaks only that.
func parseRealm(realm string, origin *url.URL) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s names a token service that is no URL", origin.Host) // the realm may hold anything, so it is not shown
	}
	if u.Scheme != "https" && (u.Scheme != "http" || origin.Scheme != "http") {
		return nil, fmt.Errorf("the token service at %s, which %s names, is refused: it is not https", u.Host, origin.Host)
	}
	return u, nil
}

func tokenURL(realm *url.URL, key tokencache.Key) *url.URL {
	u := *realm
	query := u.Query()
	if key.Service != "" {
		query.Set("service", key.Service)
	}
	query.Del("scope") // one of the realm's own would widen the token beyond its key
	for scope := range strings.FieldsSeq(key.Scope) {
		query.Add("scope", scope)
	}
	u.RawQuery = query.Encode()
	return &u
}

// tokenRefusal returns the failure that an answer without a token means.
func tokenRefusal(resp *http.Response, host string) *Error {
	e := &Error{Status: resp.StatusCode, Class: ClassUnavailable}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Class = ClassDenied
	case http.StatusTooManyRequests:
		e.Class = ClassRateLimited
		e.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	var message string
	e.Code, message = oci.ReadError(resp.Body)
	e.Message = strings.TrimSuffix("token service "+host+": "+message, ": ")
	return e
}

// parseToken reads a token answer. It uses Weir's own clock if the clock of the
// token service is ahead, or so far behind that the token would expire at once.
func parseToken(body []byte, now time.Time) (tokencache.Token, error) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"` // seconds
		IssuedAt    string  `json:"issued_at"`  // RFC 3339
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return tokencache.Token{}, fmt.Errorf("its answer is no token: %w", err)
	}
	token := tokencache.Token{Value: cmp.Or(answer.Token, answer.AccessToken)}
	switch {
	case token.Value == "":
		return tokencache.Token{}, fmt.Errorf("its answer has neither token nor access_token")
	case strings.ContainsFunc(token.Value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return tokencache.Token{}, fmt.Errorf("its token has characters that no header can carry")
	}
	life := defaultTokenLife
	// The bound comes before the conversion, which would overflow.
	if answer.ExpiresIn > 0 {
		life = time.Duration(min(answer.ExpiresIn, maxTokenLife.Seconds()) * float64(time.Second))
	}
	issued, err := time.Parse(time.RFC3339, answer.IssuedAt)
	if err != nil || issued.After(now) || !issued.Add(life).After(now) {
		issued = now
	}
	token.Issued, token.Expires = issued, issued.Add(life)
	return token, nil
}
