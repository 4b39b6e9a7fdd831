package access

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// tokenIssuer is the issuer in tokens of Weir's own.
	tokenIssuer = "weir"
	// TokenService is the name of the token service in challenges and tokens.
	TokenService = "weir"
)

// TokenOptions are the settings of Weir's own token service.
type TokenOptions struct {
	Key   []byte        // secret of all instances; nil: there is no token service
	Realm string        // URL of the service; empty: /token of the host that the client asked
	TTL   time.Duration // of a token
}

// Token is the answer of the token service (distribution-spec tokens, "Token Response
// Fields").
type Token struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"` // the same, for clients of OAuth 2
	ExpiresIn   int    `json:"expires_in"`   // seconds
	IssuedAt    string `json:"issued_at"`

	holder string
}

// Holder returns the name of the identity that the token is for, or "" without one.
func (t Token) Holder() string { return t.holder }

// tokens issues and verifies tokens. A token names its holder. The rules are asked
// at each request, so that a token gives no right that its holder has lost. Scopes that a
// client asks for limit nothing: the token would not get less dangerous, since its holder
// gets the next one as easily.
type tokens struct {
	key   []byte
	realm string
	ttl   time.Duration
}

// claims are the content of a token. The address, the groups and the certificate of the
// holder are those of each request.
type claims struct {
	jwt.RegisteredClaims        // the subject is the user
	Password             string `json:"pwd,omitempty"` // fingerprint of the hash of the user's password
	Provider             string `json:"idp,omitempty"`
	Trust                string `json:"trs,omitempty"` // fingerprint of the settings by which the provider's token was accepted
	Claims               any    `json:"clm,omitempty"` // of the provider's token
}

func newTokens(opts TokenOptions) *tokens {
	if opts.Key == nil {
		return nil
	}
	// A key of its own, so that no text that the same secret signs elsewhere is a token.
	// The only errors are of lengths that no hash can fill.
	key, _ := hkdf.Key(sha256.New, opts.Key, nil, "weir client token", sha256.Size)
	return &tokens{key: key, realm: opts.Realm, ttl: opts.TTL}
}

// isOwn reports whether a token has the form of Weir's own: no issuer of others may use
// its algorithm.
func isOwn(token string) bool { return algorithmOf(token) == jwt.SigningMethodHS256.Alg() }

// issue returns a token for an identity.
func (t *tokens) issue(i *Identity, account *account, issuer *Issuer) (Token, error) {
	now := time.Now()
	ends := now.Add(t.ttl)
	c := claims{}
	switch {
	case account != nil:
		c.Subject, c.Password = account.User, account.Hash.fingerprint()
	case i.OIDC != nil:
		c.Provider, c.Trust, c.Claims = i.OIDC.Provider, issuer.fingerprint(), i.OIDC.Claims
		// It must not outlive the proof that it stands for.
		if i.OIDC.expires.Before(ends) {
			ends = i.OIDC.expires
		}
	}
	c.Issuer, c.Audience = tokenIssuer, jwt.ClaimStrings{TokenService}
	c.IssuedAt, c.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(ends)
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(t.key)
	if err != nil {
		return Token{}, err
	}
	return Token{Token: signed, AccessToken: signed, ExpiresIn: max(int(ends.Sub(now).Seconds()), 0), IssuedAt: now.UTC().Format(time.RFC3339)}, nil
}

// verify returns the claims of a token. Its errors hold nothing of the token.
func (t *tokens) verify(token string) (*claims, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
		jwt.WithIssuer(tokenIssuer), jwt.WithAudience(TokenService))
	switch {
	case err == nil:
		return &c, nil
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, &CredentialsError{MethodToken, "the token has expired"}
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, &CredentialsError{MethodToken, "the token has a wrong signature"}
	default:
		return nil, &CredentialsError{MethodToken, "this mirror did not issue the token"}
	}
}

// holder returns the identity that a token stands for: a user who still has the same
// password, a token of an issuer that still is one, or a client without credentials.
func (r *Rules) holder(token string) (proven, error) {
	c, err := r.tokens.verify(token)
	if err != nil {
		return proven{}, err
	}
	until := c.ExpiresAt.Time
	switch {
	case c.Subject != "":
		account := r.accounts.byUser[c.Subject]
		if account == nil || account.expired() || subtle.ConstantTimeCompare([]byte(account.Hash.fingerprint()), []byte(c.Password)) != 1 {
			return proven{}, &CredentialsError{MethodToken, "the user of the token was removed, has expired or has a new password"}
		}
		return proven{credentials: credentials{account: account}, until: until}, nil
	case c.Provider != "":
		issuer := r.issuers[c.Provider]
		values, ok := c.Claims.(map[string]any)
		// The name alone says nothing: it may be that of another issuer by now, or of tokens for
		// another audience.
		if issuer == nil || !ok || subtle.ConstantTimeCompare([]byte(issuer.fingerprint()), []byte(c.Trust)) != 1 {
			return proven{}, &CredentialsError{MethodToken, "the issuer that the token depends on is no longer configured, or its settings have changed"}
		}
		oidc := &OIDC{Provider: c.Provider, Type: issuer.kind(), Claims: values, expires: until}
		return proven{credentials: credentials{oidc: oidc}, until: until}, nil
	default:
		return proven{until: until}, nil
	}
}

// IssuesTokens reports whether there is a token service.
func (r *Rules) IssuesTokens() bool { return r.tokens != nil }

// Issue returns a token for the sender of a request, who must show the credentials
// themselves: a token cannot be exchanged for a newer one. It returns the errors of
// [Rules.Identify] and [Rules.Permit], and a *CredentialsError if there is no token
// service.
func (r *Rules) Issue(ctx context.Context, p Presented) (Token, error) {
	if r.tokens == nil {
		return Token{}, &CredentialsError{MethodToken, "there is no token service"}
	}
	header, err := ParseAuthorization(p.Authorization)
	if err == nil && header.Bearer != "" && isOwn(header.Bearer) {
		err = &CredentialsError{MethodToken, "a token cannot be exchanged for a newer one"}
		r.metrics.identify(MethodToken, failure)
	}
	if err != nil {
		return Token{}, err
	}
	identity, err := r.Identify(ctx, p)
	if err != nil {
		return Token{}, err
	}
	if err := r.Permit(ctx, identity, Question{Action: GetToken}, p); err != nil {
		return Token{}, err
	}
	var issuer *Issuer
	if identity.OIDC != nil {
		issuer = r.issuers[identity.OIDC.Provider]
	}
	token, err := r.tokens.issue(identity, r.accounts.byUser[identity.User], issuer)
	if !identity.Anonymous {
		token.holder = identity.Name()
	}
	return token, err
}

// fingerprint identifies in a token the settings that decide which tokens of an issuer are
// accepted.
func (i *Issuer) fingerprint() string {
	o := &i.opts
	// Strings and lists of strings are always JSON.
	text, _ := json.Marshal([]any{o.URL, o.KeysURL, o.Audience, o.Claims, o.Algorithms})
	sum := sha256.Sum256(append([]byte("weir issuer fingerprint\x00"), text...))
	return hex.EncodeToString(sum[:16])
}

// fingerprint identifies a hash in a token. It is one-way, since the token is in the
// client's hands.
func (h *Hash) fingerprint() string {
	sum := sha256.Sum256([]byte("weir password fingerprint\x00" + h.text))
	return hex.EncodeToString(sum[:16])
}
