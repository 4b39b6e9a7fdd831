package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// tokenOf logs in at a mirror, and returns the Authorization header of the token.
func tokenOf(t *testing.T, w *harness.Weir, scope, authorization string) string {
	t.Helper()
	a := getAs(t, w, "/token?service=weir&scope="+scope, authorization)
	var document struct{ Token string }
	if err := json.Unmarshal(a.Body, &document); err != nil || document.Token == "" {
		t.Fatalf("no token: %d %s", a.Status, a.Body)
	}
	return "Bearer " + document.Token
}

// Two mirrors behind one address have one Redis, one secret and data of their own. A client
// that logs in at one of them pulls at the other, with an account of the mirror and with one
// of an upstream. What ends a right ends it at both, and Redis gets no credential of a client.
func TestLoginsAreShared(t *testing.T) {
	t.Parallel()
	const alice, bob = "alice:alices-word", "bob:bobs-word"
	secrets := map[string]string{
		"a secret of the token service": "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n",
		"a secret of Redis":             "",
	}
	for name, service := range secrets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			carol := upstreamtest.Account{Username: "carol", Password: "carols-word", Repositories: []string{"org/app"}}
			private := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithAccounts(carol))
			private.AddImage("org/app", "v1", []byte("a private layer"))
			open := upstreamtest.New(t)
			open.AddImage("org/app", "v1", []byte("a layer"))
			users := filepath.Join(t.TempDir(), "htpasswd")
			writeHtpasswd(t, users, alice, bob)
			config := fmt.Sprintf("[auth]\nhtpasswd = %q\n", users) + service +
				fmt.Sprintf("[cache.redis]\nurl = %q\nsecret_key = \"a secret of all instances of the test\"\n", redis.URL()) +
				block("own", private, `authorize = "upstream"`, `auth_check_ttl = "0s"`) + block("up", open)
			one, other := harness.StartWeir(t, config), harness.StartWeir(t, config)
			both := []*harness.Weir{one, other}

			shared := manifestPath("own/org/app", "v1")
			grant := tokenOf(t, one, "repository:own/org/app:pull", basicOf("carol:carols-word"))
			for _, w := range both {
				expect(t, "an account of the upstream", getAs(t, w, shared, grant), http.StatusOK, "")
			}
			token := basicOf(alice) // without a token service, each request has the password
			if service != "" {
				token = tokenOf(t, one, "repository:up/org/app:pull", basicOf(alice))
			}
			image := manifestPath("up/org/app", "v1")
			for _, w := range both {
				expect(t, "an account of the mirrors", getAs(t, w, image, token), http.StatusOK, "")
				if seen := getAs(t, w, shared, token).Status; seen != http.StatusUnauthorized {
					t.Errorf("an account of the mirrors at the private block: %d", seen)
				}
			}

			// Rights are withdrawn: upstream, and in the file that both mirrors read.
			private.SetAccounts()
			private.RevokeTokens()
			for _, w := range both {
				expect(t, "a withdrawn account of the upstream", getAs(t, w, shared, grant), http.StatusUnauthorized, "")
			}
			writeHtpasswd(t, users, bob)
			for _, w := range both {
				harness.Eventually(t, "a removed user is refused", func() bool { return getAs(t, w, image, token).Status == http.StatusUnauthorized })
				expect(t, "another user", getAs(t, w, image, basicOf(bob)), http.StatusOK, "")
			}

			client := redis.Client(t)
			keys, err := client.Keys(t.Context(), "*").Result()
			harness.Must(t, err)
			for _, key := range keys {
				value := client.Get(t.Context(), key).Val()
				for _, word := range []string{"carols-word", "alices-word", "bobs-word", strings.TrimPrefix(token, "Bearer "), strings.TrimPrefix(grant, "Bearer "), "token-"} {
					if strings.Contains(key+value, word) { // upstream tokens begin with the last one
						t.Errorf("Redis has a credential of a client in %s", key)
					}
				}
			}
		})
	}
}
