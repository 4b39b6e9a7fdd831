package upstream

import (
	"context"
	"net/http"
	"net/url"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weirhq/weir/tokencache"
)

const (
	// maxChallenges bounds how many repositories' challenges are remembered.
	maxChallenges = 4096
	// freshToken is the age up to which a 403 is believed: an older token
	// may have expired, which some registries (ECR) answer with 403.
	freshToken = 5 * time.Second
)

type credentials struct{ username, password string }

func (c credentials) set() bool { return c.username != "" || c.password != "" }

// challengeKey says where a challenge was seen: at a host, for a repository.
type challengeKey struct{ origin, repository string }

// authorizer knows how a client authenticates: the challenges it has seen, and
// where its tokens are.
type authorizer struct {
	remembered *lru.Cache[challengeKey, challenge]
	tokens     *tokencache.Cache
	service    *tokenService
}

func newAuthorizer(tokens *tokencache.Cache, service *tokenService) *authorizer {
	remembered, err := lru.New[challengeKey, challenge](maxChallenges)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &authorizer{remembered: remembered, tokens: tokens, service: service}
}

// authTransport authenticates the requests for one repository at one origin.
// It sends what the remembered challenge wants, so that a warm token costs no
// refused request, and answers a new challenge.
type authTransport struct {
	*authorizer
	base        http.RoundTripper
	origin      *url.URL // scheme, host and port that the requests go to
	repository  string
	credentials credentials // none for the target of a redirect
}

// RoundTrip implements http.RoundTripper. A refusal that a fresh token did not
// change is returned as the response it is.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	wanted, _ := t.remembered.Get(t.key())
	for try := 1; ; try++ {
		sent, err := t.authorize(req, wanted)
		if err != nil {
			return nil, err
		}
		resp, err := t.base.RoundTrip(sent.Request)
		// What is refused twice is meant, unless the second time was with an old
		// token: one that somebody else acquired, and that was revoked since.
		if err != nil || !sent.refused(resp) || try == 2 && !sent.old() || try == 3 {
			return resp, err
		}
		next, ok := t.choose(resp.Header.Values("WWW-Authenticate"))
		if !ok && resp.StatusCode == http.StatusForbidden {
			next, ok = wanted, true // its token expired: a refusal like any other, without a challenge
		}
		if !ok || sent.basic && next.scheme == "basic" {
			return resp, nil
		}
		discard(resp.Body)
		if sent.token.Value != "" {
			t.tokens.Invalidate(req.Context(), sent.key, sent.token)
		}
		t.remembered.Add(t.key(), next)
		wanted = next
	}
}

// authorized is a request with what it was given to authenticate itself.
type authorized struct {
	*http.Request
	basic bool
	key   tokencache.Key
	token tokencache.Token // zero without one
}

// refused reports whether the answer may be another one with a new token.
func (a *authorized) refused(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden:
		return a.old()
	default:
		return false
	}
}

// old reports whether the request was sent with a token that may have expired.
func (a *authorized) old() bool {
	return a.token.Value != "" && time.Since(a.token.Issued) > freshToken
}

// authorize returns a copy of the request with what the challenge wants; the
// zero challenge wants nothing.
func (t *authTransport) authorize(req *http.Request, c challenge) (*authorized, error) {
	a := &authorized{Request: req.Clone(req.Context())}
	switch c.scheme {
	case "basic":
		a.SetBasicAuth(t.credentials.username, t.credentials.password)
		a.basic = true
	case "bearer":
		var err error
		a.key = t.tokenKey(c)
		a.token, err = t.tokens.Token(req.Context(), a.key, func(ctx context.Context) (tokencache.Token, error) {
			return t.service.fetch(ctx, t.origin, a.key, t.credentials)
		})
		if err != nil {
			// The challenge may be out of date: the next request asks for it anew.
			t.remembered.Remove(t.key())
			return nil, err
		}
		a.Header.Set("Authorization", "Bearer "+a.token.Value)
	}
	return a, nil
}

func (t *authTransport) key() challengeKey {
	return challengeKey{origin: originOf(t.origin), repository: t.repository}
}

// tokenKey names the token that a challenge asks for. A challenge without a
// scope means the repository's content, if there is a repository.
func (t *authTransport) tokenKey(c challenge) tokencache.Key {
	scope := c.params["scope"]
	if scope == "" && t.repository != "" {
		scope = "repository:" + t.repository + ":pull"
	}
	return tokencache.Key{
		Registry: originOf(t.origin),
		Realm:    c.params["realm"],
		Service:  c.params["service"],
		Scope:    scope,
		Account:  tokencache.Fingerprint(t.credentials.username, t.credentials.password),
	}
}

// choose picks the challenge to answer: Bearer before Basic, and Basic only
// where there are credentials to send.
func (t *authTransport) choose(headers []string) (challenge, bool) {
	challenges := parseChallenges(headers)
	for _, c := range challenges {
		if c.scheme == "bearer" && c.params["realm"] != "" {
			return c, true
		}
	}
	for _, c := range challenges {
		if c.scheme == "basic" && t.credentials.set() {
			return c, true
		}
	}
	return challenge{}, false
}

func originOf(u *url.URL) string { return u.Scheme + "://" + u.Host }
