package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/bounded"
)

const (
	// maxBearers bounds the verified tokens that are remembered, and maxBearerBytes their
	// claims: those of some thousand clients.
	maxBearers     = 8192
	maxBearerBytes = 16 << 20
	// minToken is less than the length of any header with a token: its own header, some
	// claims and a signature. Hardly any password is as long.
	minToken = 100
	// claimsFactor is the memory of decoded claims in lengths of their token.
	claimsFactor = 8
)

// bearer is the holder of a verified token: a user, a token of an issuer, or neither.
type bearer struct {
	credentials
	until time.Time // until when this holds without another look at the token
	size  int       // of the token
}

// headerDigest is the SHA-256 of an Authorization header with a token, which stands for
// both in memory. Decoding the header takes longer than hashing it.
type headerDigest [sha256.Size]byte

func newBearers() *bounded.Cache[headerDigest, bearer] {
	const identity = 256 // its last one, without the claims
	return bounded.New(maxBearers, maxBearerBytes, func(_ headerDigest, b bearer) int { return b.size*claimsFactor + identity })
}

// digestOf returns the digest of a header. It reports false if the header cannot have a
// token that the rules accept.
func (r *Rules) digestOf(header []string) (headerDigest, bool) {
	if len(header) != 1 || len(header[0]) < minToken || len(header[0]) > maxAuthorization || r.tokens == nil && len(r.issuers) == 0 {
		return headerDigest{}, false
	}
	var short [1024]byte // of nearly all headers, so that hashing needs no memory of its own
	return sha256.Sum256(append(short[:0], header[0]...)), true
}

// remembered returns the holder of a token that was verified within the last minute. It
// reports false if the token has to be verified. It returns a *[CredentialsError] if the
// account of the holder has expired since.
func (r *Rules) remembered(sum headerDigest) (bearer, bool, error) {
	known, ok := r.bearers.Get(sum)
	switch {
	case !ok || !time.Now().Before(known.until):
		return bearer{}, false, nil
	case known.account != nil && known.account.expired():
		return known, true, &CredentialsError{known.method, "the account has expired"}
	default:
		return known, true, nil
	}
}

// remember keeps the holder of a verified token, for a minute at most: a key that its
// issuer withdraws ends all tokens by then.
func (r *Rules) remember(sum headerDigest, found bearer) {
	if ends := time.Now().Add(verdictTTL); ends.Before(found.until) {
		found.until = ends
	}
	r.bearers.Add(sum, found)
}

// verify identifies the holder of a token: one of Weir's own, or one of an issuer. With an
// error it returns the method that refused the token.
func (r *Rules) verify(ctx context.Context, token string) (found bearer, err error) {
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
	found.size, found.last = len(token), new(atomic.Pointer[Identity])
	return found, err
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
		return bearer{credentials: credentials{oidc: oidc}, until: oidc.expires}, nil
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
