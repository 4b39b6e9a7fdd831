package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// usersOf are the users alice and bob, whose passwords are "secret".
const usersOf = `[auth.identity.alice]
username = "alice"
password = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"
[auth.identity.bob]
username = "bob"
password = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"
[auth.groups]
ci = ["bob"]
`

// authorizer is the service behind a webhook.
type authorizer struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	asked  []http.Header
}

func newAuthorizer(t *testing.T) *authorizer {
	a := &authorizer{status: http.StatusOK}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.Header.Clone())
		w.WriteHeader(a.status)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *authorizer) answer(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.asked = status, nil
}

func (a *authorizer) questions() []http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// Each layer of the rules decides in the real binary, and a reload changes it. A refused
// request asks no upstream.
func TestRules(t *testing.T) {
	t.Parallel()
	const alice, bob = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA=="
	r := upstreamtest.New(t)
	for _, repo := range []string{"team/app", "internal/app"} {
		r.AddImage(repo, "v1", []byte("a layer"))
		r.AddImage(repo, "v2", []byte("a layer"))
	}
	service := newAuthorizer(t)
	hook := "[auth.webhook.opa]\nurl = \"" + service.URL + "/authorize\"\nbearer_token = \"the-token-of-the-webhook\"\n"
	config := func(settings, more string) string {
		return "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n" + usersOf + hook + more + blockOf("up", []string{settings}, at(r))
	}
	app, hidden := manifestPath("up/team/app", "v1"), manifestPath("up/internal/app", "v1")
	w := harness.StartWeir(t, config("", ""))
	from := func(address string) []string { return []string{"X-Forwarded-For", address} }
	as := func(credentials string) []string { return []string{"Authorization", credentials} }
	type request struct {
		path    string
		headers []string
		want    int
		tells   string
	}
	for name, c := range map[string]struct {
		settings, more string
		requests       []request
	}{
		"names": {`images = ["**", "!internal/**"]`, "", []request{
			{app, as(alice), 200, ""}, {hidden, as(alice), 404, `this mirror does not serve up/internal/app. The images list of repository.\"up\" excludes it`}, {hidden, nil, 404, "NAME_UNKNOWN"},
			{"/v2/_catalog", as(alice), 200, "up/team/app"}, {app, nil, 401, "UNAUTHORIZED"},
		}},
		"a list": {`allow = ["alice", "cidr:10.0.0.0/8"]`, "", []request{
			{app, as(alice), 200, ""}, {app, as(bob), 403, `bob may not pull from up. The allow list of repository.\"up\" does not include it`}, {app, nil, 401, "needs credentials"},
			{app, from("10.1.2.3"), 200, ""}, {app, from("10.1.2.3, 192.0.2.1"), 401, ""}, {app, from("192.0.2.1, 10.1.2.3"), 200, ""}, {app, append(from("10.1.2.3"), as(bob)...), 200, ""},
			{app, append(from("10.1.2.3"), as("Basic Ym9iOndyb25n")...), 401, "the credentials are not valid"},
			{"/v2/", as(bob), 200, ""}, {"/v2/", nil, 401, ""}, {"/v2/", from("10.1.2.3"), 200, ""}, {"/v2/_catalog", as(bob), 200, `"repositories":[]`}, {"/", as(bob), 200, "docs"},
		}},
		"a group": {`allow = ["@ci"]`, "", []request{{app, as(bob), 200, ""}, {app, as(alice), 403, "DENIED"}}},
		"a policy": {"", "[global.access_policy]\ndefault = \"deny\"\nrules = [\"identity.username == 'alice'\", \"request.action == 'get-manifest' && request.reference == 'v1'\"]\n", []request{
			{app, as(alice), 200, ""}, {app, as(bob), 200, ""}, {app, nil, 200, ""}, {manifestPath("up/team/app", "v2"), as(bob), 403, "does not allow get-manifest to bob. Check global.access_policy"},
			{manifestPath("up/team/app", "v2"), nil, 401, ""}, {"/v2/", nil, 401, ""}, {"/v2/up/team/app/tags/list", as(bob), 403, "list-tags"}, {"/metrics", as(alice), 200, ""}, {"/metrics", as(bob), 403, ""},
		}},
		"a policy of the block": {"[repository.up.access_policy]\ndefault = \"allow\"\nrules = [\"request.namespace.startsWith('up/internal/')\", \"identity.username == 'alice' && identity.oidc.claims['x'] == 'y'\"]", "", []request{
			{app, as(alice), 403, "the access policy of up does not allow"}, {hidden, as(alice), 403, "access_policy"}, {"/v2/", as(bob), 200, ""},
		}},
	} {
		harness.WriteFile(t, w.Config, config(c.settings, c.more))
		w.Logs(t, "the changed configuration is in force")
		harness.Eventually(t, name+" is in force", func() bool {
			first := c.requests[len(c.requests)-1]
			return w.Get(t, first.path, first.headers...).Status == first.want && w.Get(t, c.requests[1].path, c.requests[1].headers...).Status == c.requests[1].want
		})
		for _, q := range c.requests {
			r.ResetRequests()
			a := w.Get(t, q.path, q.headers...)
			if a.Status != q.want || q.tells != "docs" && !strings.Contains(string(a.Body), q.tells) {
				t.Errorf("%s: %s %v: %d %s, want %d %s", name, q.path, q.headers, a.Status, a.Body, q.want, q.tells)
			}
			if challenged := a.Header.Get("WWW-Authenticate") != ""; challenged != (q.want == 401) {
				t.Errorf("%s: %s %v: %v", name, q.path, q.headers, a.Header)
			}
			if asked := r.Requests(); q.want >= 400 && len(asked) > 0 {
				t.Errorf("%s: %s %v: the upstream was asked %q", name, q.path, q.headers, asked)
			}
		}
	}
	w.Logs(t, `"status":403`, `"user":"alice"`, "no such key")
	checkWebhook(t, w, service, config, app, as(alice))
	for _, secret := range []string{"the-token-of-the-webhook", "YWxpY2U6c2VjcmV0", "q=1"} {
		if strings.Contains(w.Log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// checkWebhook goes through the answers of a webhook.
func checkWebhook(t *testing.T, w *harness.Weir, service *authorizer, config func(settings, more string) string, path string, headers []string) {
	t.Helper()
	for status, want := range map[int]struct {
		status    int
		questions int // for two requests
		tells     string
	}{
		204: {200, 1, ""}, 401: {403, 1, "does not allow this request"}, 403: {403, 1, "does not allow this request"},
		302: {403, 2, "cannot decide"}, 500: {403, 2, "cannot decide"},
	} {
		service.answer(status)
		// Another comment makes another configuration, which forgets the answers.
		harness.WriteFile(t, w.Config, config(`authorization_webhook = "opa"`, fmt.Sprintf("# %d\n", status)))
		harness.Eventually(t, "the configuration is in force", func() bool {
			service.answer(status)
			a := w.Get(t, path, headers...)
			return a.Status == want.status && len(service.questions()) > 0 && strings.Contains(string(a.Body), want.tells)
		})
		service.answer(status)
		asked := append([]string{"X-Registry-Username", "mallory", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", status%256)}, headers...)
		for range 2 {
			a := w.Get(t, path+"?q=1", asked...)
			if a.Status != want.status || !strings.Contains(string(a.Body), want.tells) {
				t.Errorf("the webhook answers %d: %d %s", status, a.Status, a.Body)
			}
		}
		questions := service.questions()
		if len(questions) != want.questions {
			t.Errorf("the webhook answers %d: %d questions, want %d", status, len(questions), want.questions)
			continue
		}
		told := questions[0]
		for name, value := range map[string]string{
			"Authorization": "Bearer the-token-of-the-webhook", "X-Registry-Username": "alice", "X-Registry-Action": "get-manifest", "X-Registry-Namespace": "up/team/app",
			"X-Registry-Reference": "v1", "X-Forwarded-For": fmt.Sprintf("192.0.2.%d", status%256), "X-Forwarded-Uri": path + "?q=1", "X-Forwarded-Method": "GET", "X-Forwarded-Proto": "http",
		} {
			if got := told.Values(name); len(got) != 1 || got[0] != value {
				t.Errorf("the webhook is told %s: %q, want %q", name, got, value)
			}
		}
	}
	// Two statuses that decide nothing, two requests each.
	if metrics := string(w.Get(t, "/metrics", headers...).Body); !regexp.MustCompile(`weir_access_denied_total\{namespace="up",reason="webhook_failure"\} ([4-9]|\d\d)`).MatchString(metrics) {
		t.Errorf("failures of the webhook are not counted: %s", metrics)
	}
}

// Behind the nginx of the documentation, rules and webhooks see the client's address and
// scheme, whatever the client says of them.
func TestAccessBehindProxy(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	service := newAuthorizer(t)
	w := harness.StartWeir(t, "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[auth]\nanonymous = false\n[auth.webhook.opa]\nurl = \""+service.URL+"\"\n"+
		blockOf("ghcr.io", []string{`allow = ["cidr:127.0.0.5"]`, `authorization_webhook = "opa"`}, at(upstream)))
	p := startNginx(t, w)
	path := manifestPath("ghcr.io/org/app", "v1")
	for address, want := range map[string]int{"127.0.0.5": http.StatusOK, "127.0.0.6": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
		harness.Must(t, err)
		req.Header.Set("X-Forwarded-For", "127.0.0.5")
		req.Header.Set("X-Forwarded-Proto", "gopher")
		resp, err := p.client(t, address).Do(req)
		harness.Must(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", address, resp.Status, want)
		}
	}
	asked := service.questions()
	if len(asked) != 1 || asked[0].Get("X-Forwarded-For") != "127.0.0.5" || asked[0].Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the webhook is told %v", asked)
	}
	// A client that reaches the mirror without nginx cannot name an address.
	w.Logs(t, `"client":"127.0.0.6"`, `"status":401`)
}

// Proxies are trusted, and no longer, without a restart: the client of a rule is another one
// then.
func TestTrustedProxiesAreLive(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	config := func(proxies string) string {
		return "[server]\n" + proxies + "[auth]\nanonymous = false\n" + blockOf("up", []string{`allow = ["cidr:198.51.100.0/24"]`}, at(r))
	}
	w := harness.StartWeir(t, config(""))
	for _, step := range []struct {
		proxies string
		want    int
	}{{"", 401}, {"trusted_proxies = [\"127.0.0.1\"]\n", 200}, {"trusted_proxies = [\"192.0.2.1\"]\n", 401}, {"trusted_proxies = [\"127.0.0.0/8\"]\n", 200}, {"", 401}} {
		harness.WriteFile(t, w.Config, config(step.proxies))
		harness.Eventually(t, step.proxies, func() bool {
			return w.Get(t, manifestPath("up/org/app", "v1"), "X-Forwarded-For", "198.51.100.7").Status == step.want
		})
	}
	if got := w.Log.Count("restart"); got > 0 {
		t.Errorf("%d lines tell of a restart", got)
	}
}
