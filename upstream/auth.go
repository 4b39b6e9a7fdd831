package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/zone"
	"github.com/weirhq/weir/tokencache"
)

const (
	// maxChallenges and maxChallengeBytes bound the memory for challenges. There is one
	// for each repository at each host, and a lost one costs one request. 4096 real ones
	// take 2 MB.
	maxChallenges     = 4096
	maxChallengeBytes = 4 << 20
	// freshToken is the age up to which a 403 counts as final. An older token
	// may have expired, which some registries (ECR) answer with 403. Tokens live
	// for minutes, so a younger one has not.
	freshToken = 5 * time.Second
	// maxClientToken bounds the use of a token that a client's password was exchanged for:
	// some registries accept one for hours after the account was closed.
	maxClientToken = 5 * time.Minute
)

// challengeKey is the place of a challenge: a host, there the API of a registry or
// something else, such as a storage service, and a repository. A registry may challenge
// one client and not another.
type challengeKey struct {
	origin     string
	api        bool
	repository string
	client     string // the ID of its credential; empty if the configured one is used
}

// authorizer is the part of authentication that all requests of a client share:
// the challenges so far, the tokens and the way to new ones.
type authorizer struct {
	remembered *bounded.Cache[challengeKey, challenge]
	tokens     *tokencache.Cache
	service    *tokenService
	root       rootInquiry
}

func newAuthorizer(tokens *tokencache.Cache, service *tokenService) *authorizer {
	remembered := bounded.New(maxChallenges, maxChallengeBytes, func(key challengeKey, c challenge) int {
		return len(key.origin) + len(key.repository) + len(key.client) + c.size()
	})
	return &authorizer{remembered: remembered, tokens: tokens, service: service, root: newRootInquiry()}
}

// authTransport authenticates the requests for one repository at one origin.
// It answers the remembered challenge in advance, so that a warm token costs no
// refused request, and a new challenge by sending the request again.
type authTransport struct {
	*authorizer
	base       http.RoundTripper
	origin     *url.URL // scheme, host and port that the requests go to
	repository string
	api        bool      // the requests go to the API of a registry
	login      *login    // without credentials for the target of a redirect
	scope      string    // the repository's name at that origin
	from       zone.Zone // of the registry, if it has answered before
}

// RoundTrip returns a refusal that a fresh token did not change as the response
// that it is. It returns an error if no token can be acquired.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	wanted := t.recall()
	for try := 1; ; try++ {
		sent, err := t.authorize(req, wanted)
		if err != nil {
			return nil, err
		}
		resp, err := t.base.RoundTrip(sent.Request)
		if err != nil {
			return nil, err
		}
		next, ok := t.next(sent, resp, wanted, try)
		if !ok {
			return resp, nil
		}
		discard(resp.Body)
		if sent.basic {
			t.login.denied(sent.with)
		}
		if sent.token.Value != "" {
			t.tokens.Invalidate(req.Context(), sent.key, sent.token)
		}
		t.remembered.Add(t.key(), next)
		wanted = next
	}
}

// recall returns the challenge to answer in advance, the zero challenge if none is
// known. If only the API's root challenges, its challenge counts for all repositories.
func (t *authTransport) recall() challenge {
	wanted, ok := t.remembered.Get(t.key())
	if ok || !t.login.set() {
		return wanted
	}
	wanted, ok = t.remembered.Get(t.rootKey())
	if ok {
		t.remembered.Add(t.key(), wanted)
	}
	return wanted
}

// next returns the challenge to answer by sending the request again. It returns
// false if the response counts.
func (t *authTransport) next(sent *authorized, resp *http.Response, wanted challenge, try int) (next challenge, ok bool) {
	// The client has no other token, and may get one.
	if t.login.token != "" {
		return challenge{}, false
	}
	// Another token changes nothing about a rate limit, and costs requests.
	if resp.StatusCode/100 == 4 && saysLimited(resp.StatusCode, peekCode(resp)) {
		return challenge{}, false
	}
	// Some registries hide content from anonymous clients, without a challenge.
	if sent.anonymous() && t.login.set() && mayHide(resp) {
		if next, ok = t.choose(resp); ok {
			return next, true
		}
		return t.rootChallenge(sent.Context())
	}
	// A second refusal is final, unless the second token was an old one: another
	// instance may have acquired it, and it was revoked since. Then a third try
	// has a new token.
	if !sent.refused(resp) || try == 2 && !sent.old() || try == 3 {
		return challenge{}, false
	}
	next, ok = t.choose(resp)
	if !ok && resp.StatusCode == http.StatusForbidden {
		next, ok = wanted, true // its token expired: a refusal like any other, without a challenge
	}
	if sent.basic && next.scheme == "basic" && !sent.old() {
		return challenge{}, false // the credentials are refused
	}
	return next, ok
}

// mayHide reports whether an answer to an anonymous client may be another one with
// credentials.
func mayHide(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	default:
		return false
	}
}

// authorized is a request with its credentials or token.
type authorized struct {
	*http.Request
	basic bool
	with  credentials // for basic, or for the token
	key   tokencache.Key
	token tokencache.Token // zero if the challenge wants none
}

// anonymous reports whether the request was sent without an Authorization.
func (a *authorized) anonymous() bool { return !a.basic && a.token.Value == "" }

// refused reports whether another token may get another answer.
func (a *authorized) refused(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden:
		return a.old() // else the account may not read the repository
	default:
		return false
	}
}

// old reports whether the request was sent with a token that may have expired, or with a
// password that may have.
func (a *authorized) old() bool {
	return a.token.Value != "" && time.Since(a.token.Issued) > freshToken || a.basic && a.with.mayHaveExpired()
}

// authorize returns a copy of the request with the credentials or the token that
// the challenge wants. The zero challenge wants neither.
func (t *authTransport) authorize(req *http.Request, c challenge) (*authorized, error) {
	a := &authorized{Request: req.Clone(req.Context())}
	switch {
	case t.login.token != "":
		a.Header.Set("Authorization", "Bearer "+t.login.token)
	case c.scheme == "basic":
		var err error
		if a.with, err = t.login.password(req.Context()); err != nil {
			return nil, err
		}
		a.SetBasicAuth(a.with.username, a.with.password)
		a.basic = true
	case c.scheme == "bearer":
		if err := t.acquire(a, c); err != nil {
			return nil, err
		}
		a.Header.Set("Authorization", "Bearer "+a.token.Value)
	}
	return a, nil
}

// acquire adds the token that a challenge wants to a request. A token service may refuse a
// password that has expired: it then gets the next one, once.
func (t *authTransport) acquire(a *authorized, c challenge) error {
	for {
		var err error
		if a.with, err = t.login.get(a.Context()); err != nil {
			return err
		}
		a.key = t.tokenKey(c, a.with)
		a.token, err = t.tokens.Token(a.Context(), a.key, func(ctx context.Context) (tokencache.Token, error) {
			token, err := t.service.fetch(ctx, t.origin, a.key, a.with, c.from)
			if ends := time.Now().Add(maxClientToken); a.key.Private && token.Expires.After(ends) {
				token.Expires = ends
			}
			return token, err
		})
		// The challenge may be out of date: the next request asks for it again. A limit
		// of the token service says nothing about the challenge, and a request without a
		// token would only be refused.
		if err != nil && !errors.Is(err, ErrRateLimited) {
			t.remembered.Remove(t.key())
		}
		if !errors.Is(err, ErrDenied) {
			return err
		}
		expired := a.with.mayHaveExpired()
		t.login.denied(a.with)
		if !expired {
			return err
		}
	}
}

func (t *authTransport) key() challengeKey {
	return challengeKey{origin: originOf(t.origin), api: t.api, repository: t.repository, client: t.login.client}
}

// rootKey is the place of the challenge of the API's root.
func (t *authTransport) rootKey() challengeKey {
	return challengeKey{origin: originOf(t.origin), api: t.api, client: t.login.client}
}

// tokenKey names the token to answer a challenge with. Its scope is to pull from the
// repository, and nothing more: a hostile challenge may ask for the right to push, or for
// another repository of the account. Docker clients ignore the challenge's scope, too.
func (t *authTransport) tokenKey(c challenge, with credentials) tokencache.Key {
	scope := ""
	if t.scope != "" {
		scope = "repository:" + t.scope + ":pull"
	}
	return tokencache.Key{
		Registry: originOf(t.origin),
		Realm:    c.params["realm"],
		Service:  c.params["service"],
		Scope:    scope,
		Account:  t.login.accountOf(with),
		Private:  t.login.client != "", // other instances have other IDs for it
	}
}

// choose picks the challenge to answer: Bearer before Basic, since a token is
// worth less to a thief than a password, and Basic only if there are credentials.
func (t *authTransport) choose(resp *http.Response) (challenge, bool) {
	challenges := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	for _, c := range challenges {
		c.from = zoneOf(resp, t.from)
		realm, service := c.params["realm"], c.params["service"]
		if c.scheme == "bearer" && realm != "" {
			c.params = map[string]string{"realm": realm, "service": service} // the others are of no use
			return c, true
		}
	}
	for _, c := range challenges {
		if c.scheme == "basic" && t.login.set() {
			return c, true
		}
	}
	return challenge{}, false
}

func originOf(u *url.URL) string { return u.Scheme + "://" + u.Host }
