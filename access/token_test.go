package access_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/access"
)

// tokenKey is the secret of a token service.
var tokenKey = []byte("0123456789abcdef0123456789abcdef")

// withTokens returns rules with two users and a token service.
func withTokens(t testing.TB) access.Options {
	opts := users(t)
	opts.Tokens = access.TokenOptions{Key: tokenKey, TTL: 5 * time.Minute}
	return opts
}

// bearerOf returns a request with a token that rules have issued to a sender.
func bearerOf(t *testing.T, rules *access.Rules, shown access.Presented) access.Presented {
	t.Helper()
	token, err := rules.Issue(t.Context(), shown)
	if err != nil {
		t.Fatal(err)
	}
	if token.Token != token.AccessToken || token.Token == "" || token.ExpiresIn <= 0 {
		t.Fatalf("%+v", token)
	}
	return header("Bearer " + token.Token)
}

// A token stands for its user until it ends, at each instance with the same secret. It
// cannot be exchanged for a newer one.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := withTokens(t)
		rules, other := newRules(t, opts), newRules(t, opts)
		shown := bearerOf(t, rules, basic("alice", "secret"))
		for range 2 { // the second time from memory
			for _, at := range []*access.Rules{rules, other} {
				identity, err := at.Identify(t.Context(), shown)
				if err != nil || identity.User != "alice" || identity.Anonymous {
					t.Errorf("%+v, %v", identity, err)
				}
			}
		}
		_, err := rules.Issue(t.Context(), shown)
		wantRefused(t, "exchanged", nil, err)
		time.Sleep(5*time.Minute - time.Second)
		if _, err := rules.Identify(t.Context(), shown); err != nil {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(time.Second)
		identity, err := rules.Identify(t.Context(), shown)
		wantRefused(t, "expired", identity, err)
	})
}

// Nothing is issued to a client that would not be let in.
func TestTokenIsRefused(t *testing.T) {
	rules := newRules(t, withTokens(t))
	for name, shown := range map[string]access.Presented{
		"a wrong password": basic("alice", "guess"), "an unknown user": basic("mallory", "secret"), "a broken header": header("Basic x"),
	} {
		_, err := rules.Issue(t.Context(), shown)
		wantRefused(t, name, nil, err)
	}
	_, err := rules.Issue(t.Context(), access.Presented{})
	if denied, ok := errors.AsType[*access.DeniedError](err); !ok || !denied.Anonymous {
		t.Errorf("without credentials: %v", err)
	}
	_, err = newRules(t, users(t)).Issue(t.Context(), basic("alice", "secret"))
	wantRefused(t, "no service", nil, err)
}

// A token ends with the right that it stands for: the user, the password or the secret.
// A client without credentials gets a token where it is let in, and stays without a name.
func TestTokenAfterAChange(t *testing.T) {
	before := withTokens(t)
	shown := bearerOf(t, newRules(t, before), basic("alice", "secret"))
	for name, change := range map[string]func(*access.Options){
		"the user is removed":      func(o *access.Options) { o.Accounts = o.Accounts[1:] },
		"the password is another":  func(o *access.Options) { o.Accounts[0] = account(t, "alice", secretBcrypt) },
		"the user has expired":     func(o *access.Options) { o.Accounts[0].Expires = time.Now() },
		"the secret is another":    func(o *access.Options) { o.Tokens.Key = append([]byte("x"), tokenKey...) },
		"the service is gone":      func(o *access.Options) { o.Tokens.Key = nil },
		"nothing that concerns it": func(o *access.Options) { o.Accounts = o.Accounts[:1] },
	} {
		after := withTokens(t)
		change(&after)
		identity, err := newRules(t, after).Identify(t.Context(), shown)
		if name == "nothing that concerns it" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		wantRefused(t, name, identity, err)
	}
	open := withTokens(t)
	open.Anonymous = true
	rules := newRules(t, open)
	identity, err := rules.Identify(t.Context(), bearerOf(t, rules, access.Presented{}))
	if err != nil || !identity.Anonymous {
		t.Errorf("%+v, %v", identity, err)
	}
}

// A certificate that comes with a token is that of the request.
func TestTokenWithACertificate(t *testing.T) {
	rules := newRules(t, withTokens(t))
	shown := bearerOf(t, rules, basic("alice", "secret"))
	shown.Certificates = []*x509.Certificate{{Subject: pkix.Name{CommonName: "node-1"}}}
	identity, err := rules.Identify(t.Context(), shown)
	if err != nil || identity.User != "alice" || identity.Certificate == nil {
		t.Errorf("%+v, %v", identity, err)
	}
	// One that is issued to a certificate alone is worth nothing without it.
	nameless := bearerOf(t, rules, access.Presented{Certificates: shown.Certificates})
	if identity, err := rules.Identify(t.Context(), nameless); err != nil || !identity.Anonymous {
		t.Errorf("%+v, %v", identity, err)
	}
}

// Tokens that others have made, or changed, are refused.
func TestForgedToken(t *testing.T) {
	rules := newRules(t, withTokens(t))
	good := strings.TrimPrefix(bearerOf(t, rules, basic("alice", "secret")).Authorization[0], "Bearer ")
	parts := strings.Split(good, ".")
	soon := jwt.NewNumericDate(time.Now().Add(time.Minute))
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	alice := jwt.MapClaims{"iss": "weir", "aud": "weir", "sub": "alice", "exp": soon.Unix()}
	for name, token := range map[string]string{
		"no signature":                       parts[0] + "." + parts[1] + ".",
		"a cut signature":                    good[:len(good)-4],
		"another signature":                  parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"other claims":                       parts[0] + "." + strings.Split(sign(jwt.SigningMethodHS256, []byte("x"), alice), ".")[1] + "." + parts[2],
		"alg none":                           sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, alice),
		"a longer hash":                      sign(jwt.SigningMethodHS512, tokenKey, alice),
		"the secret itself as the key":       sign(jwt.SigningMethodHS256, tokenKey, alice),
		"an empty key":                       sign(jwt.SigningMethodHS256, []byte{}, alice),
		"two parts":                          parts[0] + "." + parts[1],
		"four parts":                         good + ".x",
		"dots alone":                         "..",
		"no JSON":                            "eyJhbGciOiJIUzI1NiJ9.e30",
		"a header that is a list":            "W10.e30.x",
		"a very deep header":                 "eyJhbGciOiJIUzI1NiIsIngiOlt9" + strings.Repeat("W1td", 1000) + ".e30.x",
		"padding":                            parts[0] + "=." + parts[1] + "." + parts[2],
		"a JSON form of the signature":       `{"payload":"e30","signature":"x"}`,
		"blanks, which the header cannot be": good + " x",
	} {
		identity, err := rules.Identify(t.Context(), header("Bearer "+token))
		wantRefused(t, name, identity, err, token)
	}
}

func BenchmarkIdentifyByToken(b *testing.B) {
	rules := newRules(b, withTokens(b))
	token, err := rules.Issue(b.Context(), basic("alice", "secret"))
	if err != nil {
		b.Fatal(err)
	}
	shown := header("Bearer " + token.Token)
	for b.Loop() {
		if _, err := rules.Identify(b.Context(), shown); err != nil {
			b.Fatal(err)
		}
	}
}

// To get a token is an action of its own in policies.
func TestActionOfTokens(t *testing.T) {
	for rule, refused := range map[string]bool{`request.action == 'get-token'`: true, `request.action == 'get-manifest'`: false} {
		opts := withTokens(t)
		opts.Policy = &access.Policy{DefaultAllow: true, Rules: []string{rule}}
		_, err := newRules(t, opts).Issue(t.Context(), basic("alice", "secret"))
		if _, denied := errors.AsType[*access.DeniedError](err); denied != refused || !refused && err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}
