package tests

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The tokens of an issuer open the mirror, as Bearer tokens and as passwords, and forged
// ones do not. While the issuer is away and its keys are not known, clients get 503, and
// logins work soon after its return. A reload does not need the issuer.
func TestOIDC(t *testing.T) {
	t.Parallel()
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	harness.Must(t, err)
	forger, err := rsa.GenerateKey(rand.Reader, 2048)
	harness.Must(t, err)
	var away atomic.Bool
	away.Store(true)
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = map[string]string{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys"}
		if r.URL.Path == "/keys" {
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: own.Public(), KeyID: "one", Use: "sig"}}}
		}
		if away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // a mirror that has left does not need it
	}))
	t.Cleanup(issuer.Close)
	sign := func(key *rsa.PrivateKey, audience string) string {
		t.Helper()
		token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
			"iss": issuer.URL, "aud": audience, "sub": "repo:acme/app", "exp": time.Now().Add(time.Hour).Unix(),
		})
		token.Header["kid"] = "one"
		text, err := token.SignedString(key)
		harness.Must(t, err)
		return text
	}
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	config := func(level string) string {
		return "[log]\nlevel = \"" + level + "\"\n[auth.oidc.ci]\nissuer = \"" + issuer.URL + "\"\nrequired_audience = \"mirror\"\n" + blockOf("up", nil, at(r))
	}
	w := harness.StartWeir(t, config("debug"))
	bearer := func(token string) int {
		return w.Get(t, manifestPath("up/org/app", "v1"), "Authorization", "Bearer "+token).Status
	}
	good := sign(own, "mirror")
	if got := bearer(good); got != http.StatusServiceUnavailable {
		t.Errorf("without the issuer's keys: %d", got)
	}
	w.Logs(t, "the keys of a token issuer cannot be read", `"issuer":"ci"`)
	away.Store(false)
	returned := time.Now()
	for bearer(good) != http.StatusOK {
		if time.Since(returned) > time.Minute { // twelve seconds, and a busy machine
			t.Fatal("no login works after the issuer's return")
		}
		time.Sleep(500 * time.Millisecond)
	}
	for name, token := range map[string]string{"another audience": sign(own, "other"), "another key": sign(forger, "mirror"), "a cut token": good[:len(good)-5]} {
		if got := bearer(token); got != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, got)
		}
	}
	req, err := http.NewRequest(http.MethodGet, "/", nil)
	harness.Must(t, err)
	req.SetBasicAuth("any", good)
	if got := w.Get(t, manifestPath("up/org/app", "v1"), "Authorization", req.Header.Get("Authorization")); got.Status != http.StatusOK {
		t.Errorf("as a password: %d", got.Status)
	}
	w.Logs(t, `"msg":"request"`, `"user":"oidc:ci:repo:acme/app"`)
	away.Store(true)
	harness.WriteFile(t, w.Config, config("info"))
	w.Logs(t, "the changed configuration is in force")
	if got := bearer(good); got != http.StatusOK {
		t.Errorf("after a reload, and the issuer is away: %d", got)
	}
	if strings.Contains(w.Log.String(), good[len(good)-40:]) {
		t.Error("the log has a token")
	}
}
