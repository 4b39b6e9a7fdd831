package access

import (
	"encoding/base64"
	"net/http"
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

// Authorization is a parsed Authorization header. It has at most one of the two.
type Authorization struct {
	Bearer string      // the token; empty: the header has none
	Basic  Credentials // without a user: the header has none
}

// HeaderOf returns the values of the Authorization header of a request: none if it is Basic with
// neither a user nor a password. Podman, skopeo and others answer a Basic challenge this way if they
// have no login.
func HeaderOf(r *http.Request) []string {
	values := r.Header["Authorization"]
	if len(values) == 1 {
		scheme, rest, _ := strings.Cut(values[0], " ")
		if strings.EqualFold(scheme, "basic") && strings.Trim(rest, " ") == "Og==" { // of ":"
			return nil
		}
	}
	return values
}

// ParseAuthorization reads the values of the Authorization header (RFC 9110, section
// 11.6.2). None is not an error. It is pure, and its cost depends on the length only.
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
		if rest == "" || !visible(rest, '!') {
			return fail("the Bearer header contains no valid token")
		}
		return Authorization{Bearer: rest}, nil
	default:
		return fail("the scheme of the Authorization header is neither Basic nor Bearer")
	}
}

// parseBasic reads the user and the password of a Basic header. The password may hold
// any character but control characters (RFC 7617, section 2).
func parseBasic(encoded string) (_ Credentials, reason string) {
	var short [1024]byte // of nearly all clients, so that decoding needs no memory of its own
	text, err := base64.StdEncoding.AppendDecode(short[:0], []byte(encoded))
	// The decoder passes over line breaks.
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return Credentials{}, "the Basic header is not base64"
	}
	user, password, found := strings.Cut(string(text), ":")
	switch {
	case !found:
		return Credentials{}, "the Basic header has no colon"
	case !ValidUser(user):
		return Credentials{}, "the name in the Basic header is not a valid user name"
	case !ValidPassword(password):
		return Credentials{}, "the password in the Basic header has a control character"
	}
	return Credentials{user, password}, ""
}

// visible reports whether a text has only characters of ASCII from the first one on, and
// none that controls. Each byte of each request passes here: runes would cost more than all
// the rest.
func visible(text string, first byte) bool {
	for i := range len(text) {
		if text[i] < first || text[i] >= unicode.MaxASCII {
			return false
		}
	}
	return true
}

// ValidPassword reports whether a client can send a text as a password.
func ValidPassword(text string) bool {
	return visible(text, ' ') || !strings.ContainsFunc(text, unicode.IsControl)
}

// ValidUser reports whether a text can be the name of a user.
func ValidUser(name string) bool {
	return name != "" && len(name) <= maxUser && utf8.ValidString(name) &&
		!strings.ContainsRune(name, ':') && !strings.ContainsFunc(name, unicode.IsControl)
}
