package access_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/access"
)

const issuerURL = "https://issuer.example.com"

// simulatedIssuer is an OpenID Connect issuer, as an http.RoundTripper.
type simulatedIssuer struct {
	mu       sync.Mutex
	keys     map[string]crypto.Signer // by name
	away     error
	document string // in place of its own discovery document
	asked    []string
}

func (s *simulatedIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.URL.Path+" "+r.Header.Get("Authorization"))
	if s.away != nil {
		return nil, s.away
	}
	var body []byte
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		body = []byte(s.document)
		if s.document == "" {
			body = []byte(`{"issuer":"` + issuerURL + `","jwks_uri":"` + issuerURL + `/keys"}`)
		}
	case "/keys":
		set := jose.JSONWebKeySet{}
		for id, key := range s.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
		}
		body, _ = json.Marshal(set)
		// A key of a kind that is not known is passed over.
		body = bytes.Replace(body, []byte(`{"keys":[`), []byte(`{"keys":[{"kty":"future","kid":"x"},`), 1)
	default:
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404 Not Found", Body: http.NoBody}, nil
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}, nil
}

func (s *simulatedIssuer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// requests returns the number of requests to a path.
func (s *simulatedIssuer) requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(strings.Join(s.asked, "\n")+"\n", path+" ")
}

// testKeys are made once: RSA keys take seconds.
var testKeys = sync.OnceValue(func() (keys struct {
	rsa, other *rsa.PrivateKey
	ec         *ecdsa.PrivateKey
}) {
	keys.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	keys.other, _ = rsa.GenerateKey(rand.Reader, 2048)
	keys.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return keys
})

// withIssuer returns rules whose clients have tokens of an issuer by the name "ci".
func withIssuer(t testing.TB, change ...func(*access.IssuerOptions)) (access.Options, *simulatedIssuer) {
	s := &simulatedIssuer{keys: map[string]crypto.Signer{"one": testKeys().rsa}}
	opts := access.IssuerOptions{
		Name: "ci", URL: issuerURL, Audience: "weir", Skew: time.Minute, Algorithms: []string{"RS256", "ES256"}, Claims: []string{"repository"},
		Refresh: time.Hour, Timeout: 30 * time.Second, RotationTimeout: 5 * time.Second, Client: &http.Client{Transport: s}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&opts)
	}
	all := users(t)
	all.Issuers = []*access.Issuer{access.NewIssuer(opts)}
	return all, s
}

// content returns the claims of a good token, with changes as name, value.
func content(changes ...any) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iss": issuerURL, "aud": "weir", "sub": "repo:acme/app", "repository": "acme/app",
		"exp": time.Now().Add(10 * time.Minute).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
	}
	for i := 0; i < len(changes); i += 2 {
		if claims[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(claims, changes[i].(string))
		}
	}
	return claims
}

func sign(t testing.TB, method jwt.SigningMethod, key any, id string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A token identifies its holder, in a Bearer header and as the password of any user, whose
// name does not count. Groups and rules see its issuer and claims.
func TestOIDC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, _ := withIssuer(t)
		opts.Groups = groups(t, map[string][]string{"robots": {"oidc:ci"}, "people": {"alice"}})
		rules := newRules(t, opts)
		rs := jwt.SigningMethodRS256
		good := sign(t, rs, testKeys().rsa, "one", content())
		for name, shown := range map[string]access.Presented{
			"Bearer": header("Bearer " + good), "a password": basic("x", good), "the password of a user": basic("alice", good),
			"no key is named":      header("Bearer " + sign(t, rs, testKeys().rsa, "", content())),
			"a list of audiences":  header("Bearer " + sign(t, rs, testKeys().rsa, "one", content("aud", []string{"other", "weir"}))),
			"a clock that is late": header("Bearer " + sign(t, rs, testKeys().rsa, "one", content("nbf", time.Now().Add(59*time.Second).Unix()))),
			"a clock that is fast": header("Bearer " + sign(t, rs, testKeys().rsa, "one", content("exp", time.Now().Add(-59*time.Second).Unix()))),
		} {
			identity, err := rules.Identify(t.Context(), shown)
			if err != nil || identity.User != "" || identity.OIDC == nil || identity.OIDC.Claims["repository"] != "acme/app" || identity.Anonymous ||
				identity.Name() != "oidc:ci:repo:acme/app" || fmt.Sprint(identity.Groups) != "[robots]" {
				t.Errorf("%s: %+v, %v", name, identity, err)
			}
		}
		// Rules see the kind of the issuer in Angos' words.
		for url, want := range map[string]string{issuerURL: "Generic OIDC", "https://token.actions.githubusercontent.com": "GitHub Actions"} {
			of, simulated := withIssuer(t, func(o *access.IssuerOptions) { o.URL = url })
			simulated.document = `{"issuer":"` + url + `","jwks_uri":"` + url + `/keys"}`
			identity, err := newRules(t, of).Identify(t.Context(), header("Bearer "+sign(t, rs, testKeys().rsa, "one", content("iss", url))))
			if err != nil || identity.OIDC.Type != want {
				t.Errorf("%s: %+v, %v", url, identity, err)
			}
		}
		// Passwords go on as before.
		if identity, err := rules.Identify(t.Context(), basic("alice", "secret")); err != nil || identity.User != "alice" {
			t.Errorf("%+v, %v", identity, err)
		}
	})
}

// Every forged, foreign or outdated token is refused, and none of them costs more than one
// reading of the keys.
func TestForgedOIDC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, issuer := withIssuer(t)
		rules := newRules(t, opts)
		keys := testKeys()
		rs := jwt.SigningMethodRS256
		ago, later := time.Now().Add(-2*time.Minute).Unix(), time.Now().Add(2*time.Minute).Unix()
		good := sign(t, rs, keys.rsa, "one", content())
		parts := strings.Split(good, ".")
		public := jose.JSONWebKey{Key: keys.rsa.Public()}
		text, _ := public.MarshalJSON()
		for name, token := range map[string]string{
			"alg none":                        sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "one", content()),
			"the public key as a secret":      sign(t, jwt.SigningMethodHS256, text, "one", content()),
			"the modulus as a secret":         sign(t, jwt.SigningMethodHS384, keys.rsa.N.Bytes(), "one", content()),
			"an algorithm that is not listed": sign(t, jwt.SigningMethodRS512, keys.rsa, "one", content()),
			"another key of the same name":    sign(t, rs, keys.other, "one", content()),
			"another kind of key":             sign(t, jwt.SigningMethodES256, keys.ec, "one", content()),
			"an unknown key":                  sign(t, rs, keys.other, "two", content()),
			"expired":                         sign(t, rs, keys.rsa, "one", content("exp", ago)),
			"no end":                          sign(t, rs, keys.rsa, "one", content("exp", nil)),
			"an end of zero":                  sign(t, rs, keys.rsa, "one", content("exp", 0)),
			"a negative end":                  sign(t, rs, keys.rsa, "one", content("exp", -1)),
			"an end that is text":             sign(t, rs, keys.rsa, "one", content("exp", "2100-01-01")),
			"not valid yet":                   sign(t, rs, keys.rsa, "one", content("nbf", later)),
			"another audience":                sign(t, rs, keys.rsa, "one", content("aud", "other")),
			"no audience":                     sign(t, rs, keys.rsa, "one", content("aud", nil)),
			"another issuer":                  sign(t, rs, keys.rsa, "one", content("iss", "https://other.example.com")),
			"an issuer with a slash":          sign(t, rs, keys.rsa, "one", content("iss", issuerURL+"/")),
			"no issuer":                       sign(t, rs, keys.rsa, "one", content("iss", nil)),
			"a list of issuers":               sign(t, rs, keys.rsa, "one", content("iss", []string{issuerURL})),
			"a claim is missing":              sign(t, rs, keys.rsa, "one", content("repository", nil)),
			"other claims":                    parts[0] + "." + strings.Split(sign(t, rs, keys.other, "one", content("sub", "root")), ".")[1] + "." + parts[2],
			"no signature":                    parts[0] + "." + parts[1] + ".",
			"a cut signature":                 good[:len(good)-8],
			"two parts":                       parts[0] + "." + parts[1],
			"a part more":                     good + ".x",
		} {
			for _, shown := range []access.Presented{header("Bearer " + token), basic("alice", token)} {
				identity, err := rules.Identify(t.Context(), shown)
				wantRefused(t, name, identity, err, token)
			}
		}
		if asked := issuer.requests("/keys"); asked > 1 {
			t.Errorf("the keys were asked for %d times", asked)
		}
	})
}

// Tokens with unknown keys cost one reading of the keys a minute, however many come, and a
// new key is found that soon. A key that the issuer withdraws is forgotten at the next
// reading.
func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, issuer := withIssuer(t)
		rules := newRules(t, opts)
		identify := func(id string, key *rsa.PrivateKey) error {
			token := sign(t, jwt.SigningMethodRS256, key, id, content("jti", fmt.Sprint(time.Now().UnixNano())))
			_, err := rules.Identify(t.Context(), header("Bearer "+token))
			return err
		}
		if err := identify("one", testKeys().rsa); err != nil {
			t.Fatal(err)
		}
		issuer.set(func() { issuer.keys = map[string]crypto.Signer{"two": testKeys().other} })
		var storm sync.WaitGroup
		for i := range 200 {
			storm.Go(func() { _ = identify(fmt.Sprint("unknown", i), testKeys().other) })
		}
		storm.Wait()
		if asked := issuer.requests("/keys"); asked != 1 {
			t.Errorf("%d readings within a minute, want 1", asked)
		}
		time.Sleep(time.Minute)
		for i := range 200 {
			storm.Go(func() { _ = identify(fmt.Sprint("unknown", i), testKeys().other) })
		}
		storm.Wait()
		if asked := issuer.requests("/keys"); asked != 2 {
			t.Errorf("%d readings in two minutes, want 2", asked)
		}
		if err := identify("two", testKeys().other); err != nil {
			t.Errorf("the new key: %v", err)
		}
		if err := identify("one", testKeys().rsa); err == nil {
			t.Error("the withdrawn key is still valid")
		}
		// Known keys are read again after the interval, behind the requests.
		time.Sleep(time.Hour + time.Second)
		if err := identify("two", testKeys().other); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if asked := issuer.requests("/keys"); asked != 3 {
			t.Errorf("%d readings after an hour, want 3", asked)
		}
	})
}

// Without keys no token can be verified, which is no fault of the client.
// Logins work within 12 s after the issuer's return. Known keys stay while it is away.
func TestIssuerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, issuer := withIssuer(t)
		rules := newRules(t, opts)
		issuer.set(func() { issuer.away = errors.New("connection refused") })
		identify := func() error {
			_, err := rules.Identify(t.Context(), header("Bearer "+sign(t, jwt.SigningMethodRS256, testKeys().rsa, "one", content("jti", fmt.Sprint(time.Now().UnixNano())))))
			return err
		}
		for range 50 {
			if _, ok := errors.AsType[*access.IssuerError](identify()); !ok {
				t.Fatal("a token is judged without keys")
			}
		}
		if asked := issuer.requests("/.well-known/openid-configuration"); asked != 1 {
			t.Errorf("an issuer that is away is asked %d times at once", asked)
		}
		time.Sleep(time.Minute)
		_ = identify()
		issuer.set(func() { issuer.away = nil })
		for start := time.Now(); identify() != nil; time.Sleep(time.Second) {
			if time.Since(start) > 12*time.Second {
				t.Fatal("the issuer is back for 12 s, and no login works")
			}
		}
		issuer.set(func() { issuer.away = errors.New("connection refused") })
		for range 3 {
			time.Sleep(time.Hour)
			if err := identify(); err != nil {
				t.Errorf("known keys are forgotten: %v", err)
			}
			synctest.Wait()
		}
		issuer.set(func() { issuer.away = nil })
		time.Sleep(12 * time.Second)
		if err := identify(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		// A token with an unknown key is refused, and not the issuer's fault.
		_, err := rules.Identify(t.Context(), header("Bearer "+sign(t, jwt.SigningMethodRS256, testKeys().other, "two", content())))
		wantRefused(t, "an unknown key", nil, err)
	})
}

// The discovery document must be the issuer's own, and its keys must be at an address with
// TLS. The token for the issuer goes to no other host.
func TestDiscovery(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		keysURL  string
		want     bool
	}{
		"its own":                        {"", "", true},
		"a given address":                {"none", issuerURL + "/keys", true},
		"that of another issuer":         {`{"issuer":"https://other.example.com","jwks_uri":"` + issuerURL + `/keys"}`, "", false},
		"keys without TLS":               {`{"issuer":"` + issuerURL + `","jwks_uri":"http://issuer.example.com/keys"}`, "", false},
		"keys in a file":                 {`{"issuer":"` + issuerURL + `","jwks_uri":"file:///etc/passwd"}`, "", false},
		"no address":                     {`{"issuer":"` + issuerURL + `"}`, "", false},
		"a document of 2 MiB":            {`{"issuer":"` + issuerURL + `","x":"` + strings.Repeat("x", 2<<20) + `","jwks_uri":"` + issuerURL + `/keys"}`, "", false},
		"no JSON":                        {"<html>", "", false},
		"keys of another host":           {`{"issuer":"` + issuerURL + `","jwks_uri":"https://cdn.example.com/keys"}`, "", true},
		"an address that gives no keys":  {"", issuerURL + "/.well-known/openid-configuration", false},
		"an address that does not exist": {"", issuerURL + "/nowhere", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			opts, issuer := withIssuer(t, func(o *access.IssuerOptions) {
				o.KeysURL = c.keysURL
				o.Token = func() (string, error) { return "for-the-issuer", nil }
			})
			issuer.document = c.document
			_, err := newRules(t, opts).Identify(t.Context(), header("Bearer "+sign(t, jwt.SigningMethodRS256, testKeys().rsa, "one", content())))
			if (err == nil) != c.want {
				t.Errorf("%s: %v", name, err)
			}
			for _, asked := range issuer.asked {
				sent := strings.HasSuffix(asked, "for-the-issuer")
				if elsewhere := name == "keys of another host" && strings.HasPrefix(asked, "/keys"); sent == elsewhere {
					t.Errorf("%s: %s", name, asked)
				}
			}
		})
	}
}

// A token of the token service stands for a token of an issuer no longer than that one.
func TestTokenForOIDC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, _ := withIssuer(t, func(o *access.IssuerOptions) { o.Skew = 0 })
		opts.Tokens = access.TokenOptions{Key: tokenKey, TTL: time.Hour}
		rules := newRules(t, opts)
		proof := sign(t, jwt.SigningMethodRS256, testKeys().rsa, "one", content())
		shown := bearerOf(t, rules, basic("ci", proof))
		identity, err := rules.Identify(t.Context(), shown)
		if err != nil || identity.OIDC == nil || identity.OIDC.Claims["repository"] != "acme/app" || identity.User != "" {
			t.Errorf("%+v, %v", identity, err)
		}
		without := opts
		without.Issuers = nil
		_, err = newRules(t, without).Identify(t.Context(), shown)
		wantRefused(t, "the issuer is gone", nil, err)
		// Another issuer of the same name, or one that accepts fewer tokens.
		for name, change := range map[string]func(*access.IssuerOptions){
			"nothing":       func(*access.IssuerOptions) {},
			"a timeout":     func(o *access.IssuerOptions) { o.Timeout = time.Hour },
			"the issuer":    func(o *access.IssuerOptions) { o.URL = "https://other.example.com" },
			"the keys":      func(o *access.IssuerOptions) { o.KeysURL = "https://other.example.com/keys" },
			"the audience":  func(o *access.IssuerOptions) { o.Audience = "another" },
			"the claims":    func(o *access.IssuerOptions) { o.Claims = []string{"environment"} },
			"the algorithm": func(o *access.IssuerOptions) { o.Algorithms = []string{"ES256"} },
		} {
			changed, _ := withIssuer(t, func(o *access.IssuerOptions) { o.Skew = 0; change(o) })
			changed.Tokens = opts.Tokens
			identity, err := newRules(t, changed).Identify(t.Context(), shown)
			if name == "nothing" || name == "a timeout" {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			wantRefused(t, name, identity, err)
		}
		time.Sleep(10 * time.Minute)
		_, err = rules.Identify(t.Context(), shown)
		wantRefused(t, "the proof has ended", nil, err)
	})
}

func FuzzToken(f *testing.F) {
	opts, _ := withIssuer(f)
	opts.Tokens = access.TokenOptions{Key: tokenKey, TTL: time.Hour}
	rules := newRules(f, opts)
	own, err := rules.Issue(f.Context(), basic("alice", "secret"))
	if err != nil {
		f.Fatal(err)
	}
	foreign := sign(f, jwt.SigningMethodRS256, testKeys().rsa, "one", content("repository", nil))
	for _, seed := range []string{own.Token, foreign, "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJIUzI1NiJ9.e30.x", own.Token[:len(own.Token)-1], foreign + "."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		identity, err := rules.Identify(t.Context(), header("Bearer "+token))
		if err != nil {
			return
		}
		// Each process of the fuzzer has a token of its own. Any that counts is signed.
		at := strings.LastIndexByte(token, '.')
		key, _ := hkdf.Key(sha256.New, tokenKey, nil, "weir client token", sha256.Size)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(token[:max(at, 0)]))
		if base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) != token[at+1:] || identity.User != "alice" {
			t.Fatalf("%q is %+v", token, identity)
		}
	})
}
