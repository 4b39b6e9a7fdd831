package tests

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// With an address of their own, operators find the metrics and the profiles there, and
// clients do not. The rules hold at both.
func TestAdminAddress(t *testing.T) {
	t.Parallel()
	const alice = "Basic YWxpY2U6c2VjcmV0"
	addr := testutil.FreeAddr(t)
	w := harness.StartWeir(t, "[server]\nadmin_address = \""+addr+"\"\n"+usersOf+blockOf("up", nil, at(upstreamtest.New(t))))
	admin := func(path string, credentials ...string) (status int, challenge string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
		harness.Must(t, err)
		for _, value := range credentials {
			req.Header.Set("Authorization", value)
		}
		resp, err := http.DefaultClient.Do(req)
		harness.Must(t, err)
		resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
	}
	for path, want := range map[string]int{
		"/metrics": 200, "/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/symbol": 200,
		"/api/v1/repositories": 200,
		"/":                    200, "/repositories": 200, "/v2/": 404, "/v2/_catalog": 404, "/debug/": 404, "/debug/vars": 404,
		"/token": 404, // there is no token service
	} {
		if got, _ := admin(path, alice); got != want {
			t.Errorf("operators get %d at %s, want %d", got, path, want)
		}
		if got, challenge := admin(path); want == 200 && (got != 401 || !strings.HasPrefix(challenge, "Basic ")) {
			t.Errorf("operators without credentials get %d %q at %s", got, challenge, path)
		}
	}
	for path, want := range map[string]int{"/metrics": 404, "/api/v1/repositories": 404, "/repositories": 404, "/debug/pprof/": 404, "/debug/pprof/heap": 404, "/": 200, "/v2/": 200, "/healthz": 200, "/readyz": 200} {
		if got := w.Get(t, path, "Authorization", alice).Status; got != want {
			t.Errorf("clients get %d at %s, want %d", got, path, want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got, _ := admin(path); got != 200 {
			t.Errorf("operators get %d at %s", got, path)
		}
	}
	w.Logs(t, "listening at server.admin_address", addr)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The challenge at the operators' address leads to a token service that answers, and its
// token opens the metrics there and at no other path.
func TestTokensAtTheAdminAddress(t *testing.T) {
	t.Parallel()
	const alice = "Basic YWxpY2U6c2VjcmV0"
	addr := testutil.FreeAddr(t)
	harness.StartWeir(t, "[server]\nadmin_address = \""+addr+"\"\n[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"+
		usersOf+blockOf("up", nil, at(upstreamtest.New(t))))
	operators := &harness.Weir{URL: "http://" + addr}
	refused := operators.Get(t, "/metrics")
	if got, want := refused.Header.Get("WWW-Authenticate"), `Bearer realm="http://`+addr+`/token",service="weir"`; refused.Status != 401 || got != want {
		t.Fatalf("%d %q, want %q", refused.Status, got, want)
	}
	again := operators.Get(t, "/token?service=weir")
	if got := again.Header.Get("WWW-Authenticate"); again.Status != 401 || !strings.HasPrefix(got, "Basic ") {
		t.Errorf("a request for a token without credentials: %d %q", again.Status, got)
	}
	answer := operators.Get(t, "/token?service=weir", "Authorization", alice)
	var document struct{ Token string }
	if err := json.Unmarshal(answer.Body, &document); err != nil || document.Token == "" {
		t.Fatalf("%d %s: %v", answer.Status, answer.Body, err)
	}
	for path, want := range map[string]int{"/metrics": 200, "/debug/pprof/cmdline": 200, "/v2/": 404, "/token/": 404} {
		if got := operators.Get(t, path, "Authorization", "Bearer "+document.Token).Status; got != want {
			t.Errorf("%d at %s with a token, want %d", got, path, want)
		}
	}
}
