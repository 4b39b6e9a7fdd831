package tests

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// tokenIssuer is an OpenID Connect issuer with keys that change.
type tokenIssuer struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	keys  map[string]crypto.Signer // by name
	asked int                      // for the keys
}

func startIssuer(t *testing.T) *tokenIssuer {
	t.Helper()
	i := &tokenIssuer{t: t, keys: make(map[string]crypto.Signer)}
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		var answer any = map[string]string{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys"}
		if r.URL.Path == "/keys" {
			i.asked++
			set := jose.JSONWebKeySet{}
			for id, key := range i.keys {
				set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
			}
			answer = set
		}
		_ = json.NewEncoder(w).Encode(answer) // a mirror that has left does not need it
	}))
	t.Cleanup(i.server.Close)
	return i
}

// publish makes these keys the only ones of the issuer.
func (i *tokenIssuer) publish(keys map[string]crypto.Signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// readings returns how often the keys were asked for.
func (i *tokenIssuer) readings() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// sign returns a token. Changes are name, value; nil removes a claim.
func (i *tokenIssuer) sign(method jwt.SigningMethod, key any, id string, changes ...any) string {
	i.t.Helper()
	claims := jwt.MapClaims{
		"iss": i.server.URL, "aud": "mirror", "sub": "repo:acme/app", "exp": time.Now().Add(time.Hour).Unix(),
		"jti": rand.Text(), // no two tokens are the same
	}
	for n := 0; n < len(changes); n += 2 {
		if claims[changes[n].(string)] = changes[n+1]; changes[n+1] == nil {
			delete(claims, changes[n].(string))
		}
	}
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	harness.Must(i.t, err)
	return text
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	harness.Must(t, err)
	return key
}

// config returns the configuration of a mirror whose clients have tokens of the issuer.
func (i *tokenIssuer) config(r *upstreamtest.Registry, keys string) string {
	return "[log]\nlevel = \"debug\"\n[auth.oidc.ci]\nissuer = \"" + i.server.URL + "\"\nrequired_audience = \"mirror\"\nallowed_algorithms = [\"RS256\", \"ES256\"]\n" +
		keys + blockOf("up", nil, at(r))
}

// While the mirror runs, an issuer replaces its key: tokens with the new one are accepted,
// and those with the old one are not once it is gone.
func TestOIDCKeyRotates(t *testing.T) {
	t.Parallel()
	issuer, r := startIssuer(t), upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	first, second := newECKey(t), newECKey(t)
	issuer.publish(map[string]crypto.Signer{"first": first})
	w := harness.StartWeir(t, issuer.config(r, "jwks_refresh_interval = 1\n"))
	pull := func(key *ecdsa.PrivateKey, id string) int {
		return w.Get(t, manifestPath("up/org/app", "v1"), "Authorization", "Bearer "+issuer.sign(jwt.SigningMethodES256, key, id)).Status
	}
	if got := pull(first, "first"); got != http.StatusOK {
		t.Fatalf("the first key: %d", got)
	}
	if got := pull(second, "second"); got != http.StatusUnauthorized {
		t.Errorf("a key that is not published: %d", got)
	}
	issuer.publish(map[string]crypto.Signer{"first": first, "second": second})
	before := issuer.readings()
	harness.Eventually(t, "the new key is known", func() bool { return pull(second, "second") == http.StatusOK })
	if got := pull(first, "first"); got != http.StatusOK || issuer.readings() == before {
		t.Errorf("while both keys are published, the first one: %d after %d readings", got, issuer.readings()-before)
	}
	issuer.publish(map[string]crypto.Signer{"second": second})
	harness.Eventually(t, "the old key is forgotten", func() bool { return pull(first, "first") == http.StatusUnauthorized })
	if got := pull(second, "second"); got != http.StatusOK {
		t.Errorf("the second key: %d", got)
	}
}

// Every forged, foreign or outdated credential is a 401 that costs no request upstream. A
// storm of tokens with unknown keys costs one reading of the issuer's keys in a minute.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	issuer, r := startIssuer(t), upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	own, other := newECKey(t), newECKey(t)
	public, err := rsa.GenerateKey(rand.Reader, 2048)
	harness.Must(t, err)
	asJWK, err := (&jose.JSONWebKey{Key: public.Public(), KeyID: "rsa"}).MarshalJSON()
	harness.Must(t, err)
	issuer.publish(map[string]crypto.Signer{"ec": own, "rsa": public})
	w := harness.StartWeir(t, issuer.config(r, ""))
	path, began := manifestPath("up/org/app", "v1"), time.Now()
	es := jwt.SigningMethodES256
	good := issuer.sign(es, own, "ec")
	if got := w.Get(t, path, "Authorization", "Bearer "+good); got.Status != http.StatusOK {
		t.Fatalf("a good token: %d %s", got.Status, got.Body)
	}
	asked := len(r.Requests())
	parts := strings.Split(good, ".")
	ago, later := time.Now().Add(-2*time.Minute).Unix(), time.Now().Add(10*time.Minute).Unix()
	tokens := map[string]string{
		"alg none":                     issuer.sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "ec"),
		"alg None":                     base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"None","kid":"ec"}`)) + "." + parts[1] + ".",
		"the public key as a secret":   issuer.sign(jwt.SigningMethodHS256, asJWK, "rsa"),
		"the modulus as a secret":      issuer.sign(jwt.SigningMethodHS512, public.N.Bytes(), "rsa"),
		"an algorithm not allowed":     issuer.sign(jwt.SigningMethodRS512, public, "rsa"),
		"another key of the same name": issuer.sign(es, other, "ec"),
		"the name of another key":      issuer.sign(es, own, "rsa"),
		"no name, and another key":     issuer.sign(es, other, ""),
		"an unknown key":               issuer.sign(es, other, "x"),
		"expired":                      issuer.sign(es, own, "ec", "exp", ago),
		"without an end":               issuer.sign(es, own, "ec", "exp", nil),
		"not valid yet":                issuer.sign(es, own, "ec", "nbf", later),
		"another audience":             issuer.sign(es, own, "ec", "aud", "other"),
		"no audience":                  issuer.sign(es, own, "ec", "aud", nil),
		"another issuer":               issuer.sign(es, own, "ec", "iss", "https://issuer.example.com"),
		"no issuer":                    issuer.sign(es, own, "ec", "iss", nil),
		"other claims":                 parts[0] + "." + strings.Split(issuer.sign(es, other, "ec", "sub", "root"), ".")[1] + "." + parts[2],
		"a cut signature":              good[:len(good)-4],
		"no signature":                 parts[0] + "." + parts[1] + ".",
		"two parts":                    parts[0] + "." + parts[1],
		"a part more":                  good + ".x",
	}
	headers := map[string]string{
		"no scheme": good, "an unknown scheme": "Token " + good, "a scheme alone": "Bearer", "two tokens": "Bearer " + good + " " + good,
		"a token and more": "Bearer " + good + ", Basic YTpi", "NUL in a password": basicHeader("any", "a\x00b"), "NUL in a user": basicHeader("a\x00b", good),
		"truncated base64": strings.TrimRight(basicHeader("any", good), "=")[:60], "no base64": "Basic !!!", "a token of 20 KiB": "Bearer " + parts[0] + "." + strings.Repeat("A", 20<<10) + "." + parts[2],
		"48 KiB": "Bearer " + strings.Repeat("A", 48<<10), "no colon": "Basic " + base64.StdEncoding.EncodeToString([]byte(good)),
	}
	for name, token := range tokens {
		headers[name] = "Bearer " + token
		headers[name+", as a password"] = basicHeader("any", token)
	}
	for name, header := range headers {
		if got := w.Get(t, path, "Authorization", header); got.Status != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v", name, got.Status, got.Header)
		}
	}
	if got := w.Get(t, path, "Authorization", "Bearer "+good, "Authorization", "Bearer "+good); got.Status != http.StatusUnauthorized {
		t.Errorf("two headers: %d", got.Status)
	}
	var storm sync.WaitGroup
	for n := range 8 {
		storm.Go(func() {
			for i := range 25 {
				w.Get(t, path, "Authorization", "Bearer "+issuer.sign(es, other, fmt.Sprint("unknown-", n, "-", i)))
			}
		})
	}
	storm.Wait()
	if most := 1 + int(time.Since(began)/time.Minute); issuer.readings() > most {
		t.Errorf("the keys were read %d times, want at most %d", issuer.readings(), most)
	}
	if further := len(r.Requests()) - asked; further != 0 {
		t.Errorf("the forged tokens caused %d requests upstream", further)
	}
	if got := w.Get(t, path, "Authorization", "Bearer "+good); got.Status != http.StatusOK {
		t.Errorf("the good token: %d", got.Status)
	}
	for name, token := range tokens {
		if signature := token[strings.LastIndexByte(token, '.')+1:]; len(signature) > 20 && strings.Contains(w.Log.String(), signature) {
			t.Errorf("the log has the token %q", name)
		}
	}
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
