package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// writeHtpasswd writes the accounts of a registry as name:password.
func writeHtpasswd(t *testing.T, path string, accounts ...string) {
	t.Helper()
	var lines strings.Builder
	for _, account := range accounts {
		name, password, _ := strings.Cut(account, ":")
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		harness.Must(t, err)
		fmt.Fprintf(&lines, "%s:%s\n", name, hash)
	}
	harness.WriteFile(t, path, lines.String())
}

func basicOf(account string) string {
	name, password, _ := strings.Cut(account, ":")
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(name, password)
	return r.Header.Get("Authorization")
}

// getAs sends a GET with the value of an Authorization header, or with none.
func getAs(t *testing.T, w *harness.Weir, path, authorization string) harness.Answer {
	t.Helper()
	if authorization == "" {
		return w.Get(t, path)
	}
	return w.Get(t, path, "Authorization", authorization)
}

// Accounts of a real registry open the mirror as they open the registry, cached or not, by
// a real client too, and no longer once they are withdrawn. While the registry is away, cached
// content is answered for the grace, and not without one.
func TestRightsAtARealRegistry(t *testing.T) {
	t.Parallel()
	const alice, bob = "alice:secret-of-alice", "bob:secret-of-bob"
	accounts := filepath.Join(t.TempDir(), "htpasswd")
	writeHtpasswd(t, accounts, alice, bob)
	registry := harness.StartDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: registry, path: %q}}", accounts))
	image := harness.NewImage(t, 100_000)
	name, password, _ := strings.Cut(alice, ":")
	pusher := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + registry.Addr, Username: name, Password: password}
	pusher.PushImage(t, "org/app", "v1", image)
	start := func(grace string) *harness.Weir {
		return harness.StartWeir(t, blockOf("mirror", []string{`authorize = "upstream"`, `auth_check_ttl = "1s"`, `tag_ttl = "1h"`, fmt.Sprintf("auth_stale_grace = %q", grace)},
			[]string{fmt.Sprintf("url = \"http://%s\"", registry.Addr)}))
	}
	w, graceful := start("0s"), start("1h")

	paths := []string{
		manifestPath("mirror/org/app", "v1"), manifestPath("mirror/org/app", harness.DescriptorOf("", image.Manifest).Digest.String()),
		blobPath("mirror/org/app", harness.DescriptorOf("", image.Config).Digest), blobPath("mirror/org/app", harness.DescriptorOf("", image.Layers[0]).Digest),
		"/v2/mirror/org/app/tags/list",
	}
	allOf := func(label string, w *harness.Weir, want int, authorization string) {
		t.Helper()
		for _, path := range paths {
			expect(t, label+" "+path, getAs(t, w, path, authorization), want, "")
		}
	}
	all := func(label string, want int, authorization string) {
		t.Helper()
		allOf(label, w, want, authorization)
	}
	all("cold, a wrong password", 401, basicOf("alice:guessed"))
	all("cold, nobody", 401, "")
	all("alice", 200, basicOf(alice))
	w.MetricIs(t, 0, "weir_downloads")
	all("cached, nobody", 401, "")
	all("cached, a wrong password", 401, basicOf("alice:guessed"))
	all("bob", 200, basicOf(bob))

	skopeo := func(account string) error {
		dir := t.TempDir()
		out, err := exec.CommandContext(t.Context(), testutil.Program(t, "skopeo", "skopeo"), "copy", "--src-tls-verify=false", "--src-creds", account,
			"docker://"+w.Addr+"/mirror/org/app:v1", "dir:"+dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := skopeo(bob); err != nil {
		t.Error(err)
	}
	if err := skopeo("bob:guessed"); err == nil || !strings.Contains(err.Error(), "unauthorized") {
		t.Errorf("skopeo with a wrong password: %v", err)
	}

	allOf("with grace", graceful, 200, basicOf(alice))
	graceful.MetricIs(t, 0, "weir_downloads")
	becomes := func(label string, want int, account string) {
		t.Helper()
		for _, path := range paths { // lists have verdicts of their own
			harness.Eventually(t, label+" "+path, func() bool { return getAs(t, w, path, basicOf(account)).Status == want })
		}
	}
	writeHtpasswd(t, accounts, alice)
	becomes("withdrawn", 401, bob)
	all("alice still", 200, basicOf(alice))

	harness.Must(t, registry.Cmd.Process.Kill())
	// This verdict is younger than that of the other mirror.
	becomes("alice, away, without grace", 503, alice)
	allOf("alice, away, with grace", graceful, 200, basicOf(alice))
	allOf("bob, away, with grace", graceful, 503, basicOf(bob))
	allOf("a guess, away, with grace", graceful, 503, basicOf("alice:guessed"))
	for _, secret := range []string{"secret-of", "guessed", strings.TrimPrefix(basicOf(alice), "Basic ")} {
		if strings.Contains(w.Log.String(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// A token service gives two users different rights. What one of them brought into the cache
// is no answer to the other, by any way of asking. A right that is withdrawn ends. Verdicts count
// while the upstream is away for as long as the grace, and not without one.
func TestRightsByATokenService(t *testing.T) {
	t.Parallel()
	alice := upstreamtest.Account{Username: "alice", Password: "secret-of-alice", Repositories: []string{"org/app"}}
	bob := upstreamtest.Account{Username: "bob", Password: "secret-of-bob"}
	carol := upstreamtest.Account{Username: "carol", Password: "secret-of-carol", Repositories: []string{"org/app"}}
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithAccounts(alice, bob, carol))
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	layer := upstream.AddBlob("org/app", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream, `authorize = "upstream"`, `auth_stale_grace = "1h"`, `tag_ttl = "1h"`))
	token := func(account string, want int) string {
		t.Helper()
		a := getAs(t, w, "/token?service=weir&scope=repository:mirror/org/app:pull", basicOf(account))
		expect(t, "a token for "+account, a, want, "")
		var answer struct{ Token string }
		if want == 200 {
			harness.Must(t, json.Unmarshal(a.Body, &answer))
		}
		return "Bearer " + answer.Token
	}
	ofAlice, ofBob := token("alice:secret-of-alice", 200), token("bob:secret-of-bob", 200)
	token("alice:guessed", 401)
	paths := []string{
		manifestPath("mirror/org/app", "v1"), manifestPath("mirror/org/app", image.Digest.String()), blobPath("mirror/org/app", layer),
		"/v2/mirror/org/app/tags/list", "/v2/mirror/org/app/referrers/" + image.Digest.String(),
	}
	all := func(label, header string, want int) {
		t.Helper()
		for _, path := range paths {
			expect(t, label+" "+path, getAs(t, w, path, header), want, "")
		}
	}
	all("alice", ofAlice, 200)
	w.MetricIs(t, 0, "weir_downloads")
	all("bob by his token", ofBob, 401)
	all("bob by his password", basicOf("bob:secret-of-bob"), 401)
	upstream.ResetRequests()
	all("alice from the cache", ofAlice, 200)
	expectWire(t, upstream, "lists alone ask", "GET /v2/org/app/tags/list 200", "GET /v2/org/app/referrers/"+image.Digest.String()+" 200")

	// Another mirror asks each second, and has no grace.
	brief := harness.StartWeir(t, block("mirror", upstream, `authorize = "upstream"`, `auth_check_ttl = "1s"`, `tag_ttl = "1h"`))
	becomes := func(label, account string, want int) {
		t.Helper()
		header := basicOf(account)
		for _, path := range paths { // lists have verdicts of their own
			harness.Eventually(t, label+" "+path, func() bool { return getAs(t, brief, path, header).Status == want })
		}
	}
	becomes("alice of another mirror", "alice:secret-of-alice", 200)
	becomes("carol of another mirror", "carol:secret-of-carol", 200)
	brief.MetricIs(t, 0, "weir_downloads")
	upstream.SetAccounts(upstreamtest.Account{Username: "alice", Password: "secret-of-alice"}, bob, carol)
	upstream.RevokeTokens()
	becomes("alice without the right", "alice:secret-of-alice", 401)
	becomes("carol still", "carol:secret-of-carol", 200)
	upstream.Close()
	becomes("carol of another mirror, without grace", "carol:secret-of-carol", 503)
	all("alice while the upstream is away", ofAlice, 200)
	for _, path := range paths[:3] {
		expect(t, "bob while the upstream is away", getAs(t, w, path, ofBob), http.StatusServiceUnavailable, "")
	}
}

// A token outlives a reload, and ends with the secret that sealed it, and where its block is
// led to another place. No other registry and no other repository gets it.
func TestTokensAfterAReload(t *testing.T) {
	t.Parallel()
	account := upstreamtest.Account{Username: "alice", Password: "secret-of-alice", Repositories: []string{"org/app", "other/app"}}
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithAccounts(account))
	elsewhere := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithAccounts(account))
	for _, r := range []*upstreamtest.Registry{upstream, elsewhere} {
		r.AddImage("org/app", "v1", []byte("a layer of org"))
		r.AddImage("other/app", "v1", []byte("a layer of other"))
	}
	config := func(secret, url string, settings ...string) string {
		return fmt.Sprintf("[auth.token_service]\nsecret_key = %q\n", secret) +
			blockOf("mirror", append(settings, `authorize = "upstream"`), []string{fmt.Sprintf("url = %q", url)})
	}
	const first, second = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	at := upstream.URL.String()
	w := harness.StartWeir(t, config(first, at+"/org"))
	token := func() string {
		t.Helper()
		a := getAs(t, w, "/token?scope=repository:mirror/app:pull", basicOf("alice:secret-of-alice"))
		expect(t, "a token", a, http.StatusOK, "")
		var answer struct{ Token string }
		harness.Must(t, json.Unmarshal(a.Body, &answer))
		return "Bearer " + answer.Token
	}
	old := token()
	const path = "/v2/mirror/app/manifests/v1"
	expect(t, "before", getAs(t, w, path, old), http.StatusOK, "")
	for i, change := range []struct {
		name, text string
		want       int
	}{
		{"another setting", config(first, at+"/org", `tag_ttl = "1h"`), 200},
		{"another account for warming", config(first, at+"/org") + "username = \"mirror\"\npassword = \"x\"\n", 200},
		{"another secret", config(second, at+"/org"), 401},
		{"the first secret again", config(first, at+"/org"), 200},
		{"another path", config(first, at+"/other"), 401},
		{"another token service", config(first, at+"/org") + "token_realm = \"127.0.0.2\"\n", 401},
		{"another registry", config(first, elsewhere.URL.String()+"/org"), 401},
	} {
		harness.WriteFile(t, w.Config, change.text)
		w.MetricIs(t, float64(i+1), "weir_config_reloads_total", "result", "success")
		upstream.ResetRequests()
		expect(t, change.name, getAs(t, w, path, old), change.want, "")
		if got := upstream.Requests(); change.want == 401 && len(got) > 0 {
			t.Errorf("%s: the upstream got %q", change.name, got)
		}
	}
	if got := append(elsewhere.Requests(), elsewhere.TokenRequests()...); len(got) > 0 {
		t.Errorf("the other registry got %q", got)
	}
	expect(t, "a new token", getAs(t, w, path, token()), http.StatusOK, "")
}
