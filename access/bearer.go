package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
)

// verify identifies the holder of a token: one of Weir's own, or one of an issuer. With an
// error it returns the method that refused the token.
func (r *Rules) verify(ctx context.Context, token string) (found proven, err error) {
	switch own := isOwn(token); {
	case own && r.tokens != nil:
		found, err = r.holder(token)
		found.method = MethodToken
	case !own && len(r.issuers) > 0:
		found, err = r.issuedTo(ctx, token)
		found.method = MethodOIDC
	default:
		found.method = MethodUnknown
		err = &CredentialsError{MethodUnknown, "this mirror does not accept such tokens"}
	}
	found.size = len(token)
	return found, err
}

// issuedTo verifies a token of the issuer that it names.
func (r *Rules) issuedTo(ctx context.Context, token string) (proven, error) {
	name := issuerOf(token)
	for _, issuer := range r.issuers {
		if issuer.opts.URL != name {
			continue
		}
		oidc, err := issuer.verify(ctx, token)
		if err != nil {
			return proven{}, err
		}
		return proven{credentials: credentials{oidc: oidc}, until: oidc.expires}, nil
	}
	return proven{}, &CredentialsError{MethodOIDC, "no configured issuer has issued the token"}
}

// isJWT reports whether a password has the form of a signed token (RFC 7515, section 7.1).
func isJWT(text string) bool { return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2 }

// algorithmOf returns the algorithm that a token claims, unverified.
func algorithmOf(token string) string {
	var header struct {
		Algorithm string `json:"alg"`
	}
	decodePart(token, 0, &header)
	return header.Algorithm
}

// keyOf returns the name of the key that a token claims to be signed with, unverified.
func keyOf(token string) string {
	var header struct {
		Key string `json:"kid"`
	}
	decodePart(token, 0, &header)
	return header.Key
}

// issuerOf returns the issuer that a token claims, unverified.
func issuerOf(token string) string {
	var body struct {
		Issuer string `json:"iss"`
	}
	decodePart(token, 1, &body)
	return body.Issuer
}

// decodePart decodes a part of a token. It leaves the zero value if that cannot be read.
func decodePart(token string, index int, into any) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return
	}
	if text, err := base64.RawURLEncoding.DecodeString(parts[index]); err == nil {
		_ = json.Unmarshal(text, into) // hostile text decodes to nothing, which no rule accepts
	}
}
