package access

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// IssuerOptions describe an OpenID Connect issuer whose tokens identify clients.
type IssuerOptions struct {
	Name       string        // in rules and logs
	URL        string        // as it is in the tokens
	KeysURL    string        // of its keys; empty: it is discovered (OpenID Connect Discovery 1.0, section 4)
	Audience   string        // that tokens must have; empty: any
	Claims     []string      // that tokens must have
	Skew       time.Duration // tolerated between the clocks
	Algorithms []string      // of signatures; those of a shared secret are never accepted
	Refresh    time.Duration // after which the keys are read again
	// Timeout bounds reading the keys for the first time and for a refresh, and
	// RotationTimeout reading them for a token with an unknown key.
	Timeout, RotationTimeout time.Duration
	Client                   *http.Client
	// Token returns the token that the issuer wants for its keys. It may be nil.
	Token  func() (string, error)
	Logger *slog.Logger
}

// Issuer verifies tokens of one OpenID Connect issuer. It outlives the [Rules] of a
// configuration, so that a reload does not read its keys again.
type Issuer struct {
	opts IssuerOptions
	keys *keys
}

// NewIssuer returns an issuer. It asks for the keys when the first token comes.
func NewIssuer(opts IssuerOptions) *Issuer {
	return &Issuer{opts: opts, keys: &keys{opts: opts}}
}

// kind is the provider's type for rules that were written for Angos.
func (i *Issuer) kind() string {
	if i.opts.URL == "https://token.actions.githubusercontent.com" {
		return "GitHub Actions"
	}
	return "Generic OIDC"
}

// verify returns the content of a token (OpenID Connect Core 1.0, section 3.1.3.7). Its
// errors hold nothing of the token.
func (i *Issuer) verify(ctx context.Context, token string) (*OIDC, error) {
	// Before any key is asked for: a token that claims "none", or HS256 with the public
	// key as its secret, is refused at once.
	if !slices.Contains(i.opts.Algorithms, algorithmOf(token)) {
		return nil, i.refuse("the algorithm of the token is not allowed")
	}
	set, err := i.keys.forToken(ctx, keyOf(token))
	if err != nil {
		return nil, err
	}
	// Times are compared below, with the configured tolerance. Those of the library have one of
	// their own.
	verifier := oidc.NewVerifier(i.opts.URL, set, &oidc.Config{
		ClientID: i.opts.Audience, SkipClientIDCheck: i.opts.Audience == "", SkipExpiryCheck: true, SupportedSigningAlgs: i.opts.Algorithms,
	})
	verified, err := verifier.Verify(ctx, token)
	if err != nil {
		return nil, i.refuse("its signature, its issuer or its audience is wrong")
	}
	var raw json.RawMessage
	content := &OIDC{Provider: i.opts.Name, Type: i.kind()}
	if err = verified.Claims(&raw); err == nil {
		err = json.Unmarshal(raw, &content.Claims)
	}
	if err != nil {
		return nil, i.refuse("its claims cannot be read")
	}
	now := time.Now()
	content.expires = verified.Expiry.Add(i.opts.Skew)
	switch notBefore, hasStart := content.Claims["nbf"].(float64); {
	case verified.Expiry.Unix() <= 0: // a token without an end would be a password
		return nil, i.refuse("the token has no expiry time")
	case !now.Before(content.expires):
		return nil, i.refuse("the token has expired")
	case hasStart && now.Add(i.opts.Skew).Before(time.Unix(int64(notBefore), 0)):
		return nil, i.refuse("the token is not valid yet")
	}
	for _, name := range i.opts.Claims {
		if content.Claims[name] == nil {
			return nil, i.refuse(fmt.Sprintf("the token lacks the claim %q", name))
		}
	}
	return content, nil
}

func (i *Issuer) refuse(reason string) error {
	return &CredentialsError{MethodOIDC, i.opts.Name + ": " + reason}
}

// IssuerError says that no keys of an issuer are known, and that they cannot be read at
// the moment.
type IssuerError struct {
	Issuer string // its name
	Err    error
}

func (e *IssuerError) Error() string {
	return fmt.Sprintf("the keys of the issuer %s cannot be read: %v", e.Issuer, e.Err)
}

func (e *IssuerError) Unwrap() error { return e.Err }
