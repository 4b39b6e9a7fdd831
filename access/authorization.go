package access

import (
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Method is a way to identify a client.
type Method string

// Methods.
const (
	MethodNone        Method = "none" // no credentials
	MethodCertificate Method = "certificate"
	MethodPassword    Method = "password"
	MethodToken       Method = "token" // of Weir's own token service
	MethodOIDC        Method = "oidc"
	MethodUnknown     Method = "unknown" // a header that cannot be read, or a scheme that is not known
)

const (
	// maxAuthorization bounds the header. The longest is a sealed token of an upstream
	// (MaxGrantToken). Those of issuers that put the groups of a user into them have some
	// KiB.
	maxAuthorization = 32 << 10
	// maxUser bounds the name of an account, in bytes.
	maxUser = 255
)

// Credentials are the parts of a Basic header (RFC 7617).
type Credentials struct{ User, Password string }

// Authorization is a parsed Authorization header.
type Authorization struct {
	Bearer string // the token; empty: the header has none
	Basic  *Credentials
}

// ParseAuthorization reads the values of the Authorization header (RFC 9110, section
// 11.6.2). None is no error. It is pure, and its cost depends on the length only.
func ParseAuthorization(values []string) (Authorization, error) {
	fail := func(reason string) (Authorization, error) {
		return Authorization{}, &CredentialsError{MethodUnknown, reason}
	}
	switch {
	case len(values) == 0:
		return Authorization{}, nil
	case len(values) > 1: // a proxy and Weir might read different ones
		return fail("several Authorization headers")
	case len(values[0]) > maxAuthorization:
		return fail("the Authorization header is too long")
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	rest = strings.Trim(rest, " ") // more than one blank may follow the scheme
	switch {
	case strings.EqualFold(scheme, "basic"):
		basic, reason := parseBasic(rest)
		if reason != "" {
			return fail(reason)
		}
		return Authorization{Basic: basic}, nil
	case strings.EqualFold(scheme, "bearer"):
		if rest == "" || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= unicode.MaxASCII }) {
			return fail("the token of the Bearer header is no token")
		}
		return Authorization{Bearer: rest}, nil
	default:
		return fail("the scheme of the Authorization header is neither Basic nor Bearer")
	}
}

// parseBasic reads the user and the password of a Basic header. The password may hold
// any character but control characters (RFC 7617, section 2).
func parseBasic(encoded string) (_ *Credentials, reason string) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	// The decoder passes over line breaks.
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return nil, "the Basic header is not base64"
	}
	user, password, found := strings.Cut(string(text), ":")
	switch {
	case !found:
		return nil, "the Basic header has no colon"
	case !ValidUser(user):
		return nil, "the name in the Basic header can be no user's"
	case !ValidPassword(password):
		return nil, "the password in the Basic header has a control character"
	}
	return &Credentials{user, password}, ""
}

// ValidPassword reports whether a client can send a text as a password.
func ValidPassword(text string) bool { return !strings.ContainsFunc(text, unicode.IsControl) }

// ValidUser reports whether a text can be the name of a user.
func ValidUser(name string) bool {
	return name != "" && len(name) <= maxUser && utf8.ValidString(name) &&
		!strings.ContainsRune(name, ':') && !strings.ContainsFunc(name, unicode.IsControl)
}
