package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/bounded"
)

const (
	// maxBearers bounds the verified tokens that are remembered, and maxBearerBytes their
	// claims: those of some thousand clients.
	maxBearers     = 8192
	maxBearerBytes = 16 << 20
	// claimsFactor is the memory of decoded claims in lengths of their token.
	claimsFactor = 8
)

// bearer is the holder of a verified token: a user, a token of an issuer, or neither.
type bearer struct {
	method  Method
	account *account
	oidc    *OIDC
	until   time.Time // until when this holds without another look at the token
	size    int       // of the token
}

// tokenDigest is the SHA-256 of a token, which stands for it in memory.
type tokenDigest [sha256.Size]byte

func newBearers() *bounded.Cache[tokenDigest, bearer] {
	return bounded.New(maxBearers, maxBearerBytes, func(_ tokenDigest, b bearer) int { return b.size * claimsFactor })
}

// bear identifies the holder of a token: one of Weir's own, or one of an issuer. A token
// that was verified within the last minute is not verified again. With a
// *[CredentialsError] it returns the method that refused the token.
func (r *Rules) bear(ctx context.Context, token string) (bearer, error) {
	sum := tokenDigest(sha256.Sum256([]byte(token)))
	if known, ok := r.bearers.Get(sum); ok && time.Now().Before(known.until) {
		if known.account != nil && known.account.expired() {
			return known, &CredentialsError{known.method, "the account has expired"}
		}
		return known, nil
	}
	var found bearer
	var err error
	switch own := isOwn(token); {
	case own && r.tokens != nil:
		found, err = r.holder(token)
		found.method = MethodToken
	case !own && len(r.issuers) > 0:
		found, err = r.issuedTo(ctx, token)
		found.method = MethodOIDC
	default:
		found.method = MethodUnknown
		err = &CredentialsError{MethodUnknown, "no such tokens are accepted"}
	}
	if err != nil {
		return found, err
	}
	// A key that its issuer withdraws ends all tokens within a minute.
	if ends := time.Now().Add(verdictTTL); ends.Before(found.until) {
		found.until = ends
	}
	found.size = len(token)
	r.bearers.Add(sum, found)
	return found, nil
}

// issuedTo verifies a token of the issuer that it names.
func (r *Rules) issuedTo(ctx context.Context, token string) (bearer, error) {
	name := issuerOf(token)
	for _, issuer := range r.issuers {
		if issuer.opts.URL != name {
			continue
		}
		oidc, err := issuer.verify(ctx, token)
		if err != nil {
			return bearer{}, err
		}
		return bearer{oidc: oidc, until: oidc.expires}, nil
	}
	return bearer{}, &CredentialsError{MethodOIDC, "the token is of no configured issuer"}
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
