package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/weirhq/weir/internal/zone"
)

// Credential is a client's own credential for an upstream: a username and a password, or
// a token of the upstream's token service. With neither the client is anonymous.
type Credential struct {
	// ID stands for the credential wherever answers are kept apart: two credentials
	// have the same ID only if they are the same. It does not reveal them, and is never
	// empty.
	ID                 string
	Username, Password string
	Token              string
}

// Anonymous reports whether the client showed nothing.
func (c Credential) Anonymous() bool { return c.Username == "" && c.Password == "" && c.Token == "" }

// Place is what a client's credential is for: a registry, and the names of it that an
// upstream stands for.
type Place struct {
	Registry string // URL of its API, and the token service that may get passwords
	Path     string // before all names; may be empty

	text string // that String returns; empty: it is not known yet
}

// String returns a text that is the same for the same place only.
func (p Place) String() string {
	if p.text != "" {
		return p.text
	}
	return p.Registry + " " + p.Path
}

// Place returns what a client's credential is for.
func (c *Client) Place() Place {
	p := Place{Registry: originOf(c.url) + c.root + " " + c.tokenRealm, Path: c.repository("")}
	p.text = p.String() // for each request, see [OnBehalf]
	return p
}

type credentialKey struct{}

// Concealed is a client's credential that is revealed when a request upstream needs it.
type Concealed interface {
	// Client returns the ID of the credential.
	Client() string
	// Reveal returns the credential, also after the client has left.
	Reveal() Credential
}

// Client returns the ID.
func (c Credential) Client() string { return c.ID }

// Reveal returns the credential itself.
func (c Credential) Reveal() Credential { return c }

// OnBehalf returns a context for requests that a client's credential authenticates, in
// place of the configured one. No part of what such a request learned about rights
// counts for another credential: challenges, tokens and rate limits are kept apart.
func OnBehalf(ctx context.Context, c Concealed) context.Context {
	return context.WithValue(ctx, credentialKey{}, c)
}

// ConcealedOf returns the credential of [OnBehalf] as it was given. It reports false if the
// configured one counts.
func ConcealedOf(ctx context.Context) (Concealed, bool) {
	own, ok := ctx.Value(credentialKey{}).(Concealed)
	return own, ok
}

// CredentialOf is ConcealedOf for a request that needs the credential now.
func CredentialOf(ctx context.Context) (Credential, bool) {
	own, ok := ConcealedOf(ctx)
	if !ok {
		return Credential{}, false
	}
	return own.Reveal(), true
}

// ClientOf returns the ID of the credential of [OnBehalf], or "" if the configured one counts.
func ClientOf(ctx context.Context) string {
	if own, ok := ConcealedOf(ctx); ok {
		return own.Client()
	}
	return ""
}

// loginOf returns the login of the requests of a context.
func (c *Client) loginOf(ctx context.Context) *login {
	own, ok := CredentialOf(ctx)
	if !ok {
		return c.login
	}
	return &login{fixed: credentials{username: own.Username, password: own.Password}, token: own.Token, client: own.ID}
}

// Grant is what a credential was exchanged for.
type Grant struct {
	// Credential authenticates requests to pull from one repository. It has the ID of the
	// credential that was exchanged.
	Credential
	// Expires is when the upstream's token ends. It is zero for another credential.
	Expires time.Time
}

// Grant exchanges the credential of the context for a token to pull from a repository
// (distribution token specification, "Requesting a Token"). A registry without a token
// service checks a password itself, which is then the grant. An empty repository asks
// for no right but that of a login. Grant returns an *Error, of [ClassDenied] if the
// credential is refused, or ctx's error.
func (c *Client) Grant(ctx context.Context, repo string) (Grant, error) {
	own, _ := CredentialOf(ctx)
	kept := Grant{Credential: own}
	about := call{op: opToken, method: http.MethodGet, repo: repo}
	if own.Token != "" {
		return kept, nil // the registry judges it with the first request
	}
	name := ""
	if repo != "" {
		name = c.repository(repo)
	}
	way := c.authenticated(ctx, c.url, name, zone.Public)
	way.login, way.api = c.loginOf(ctx), true
	wanted := way.recall()
	if wanted.scheme == "" {
		var ok bool
		if wanted, ok = way.rootChallenge(ctx); !ok {
			return kept, ctx.Err() // the registry challenges at the repository, or never
		}
	}
	req, err := c.rootRequest(ctx)
	if err != nil {
		return Grant{}, c.grantFailed(ctx, about, err)
	}
	if wanted.scheme == "bearer" {
		sent := &authorized{Request: req}
		if err := way.acquire(sent, wanted); err != nil {
			return Grant{}, c.grantFailed(ctx, about, err)
		}
		return Grant{Credential: Credential{ID: own.ID, Token: sent.token.Value}, Expires: sent.token.Expires}, nil
	}
	req.SetBasicAuth(own.Username, own.Password)
	resp, err := c.ownTransport().RoundTrip(req)
	if err != nil {
		return Grant{}, c.grantFailed(ctx, about, err)
	}
	if resp.StatusCode != http.StatusOK {
		return Grant{}, c.grantFailed(ctx, about, c.refusal(resp))
	}
	discard(resp.Body)
	return kept, nil
}

// grantFailed returns a failure of an exchange as the caller gets it.
func (c *Client) grantFailed(ctx context.Context, about call, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	about.sender = c.loginOf(ctx)
	failure := c.identify(asError(err), about)
	if errors.Is(err, ErrDenied) {
		failure.NotAsked = false
	}
	return failure
}
