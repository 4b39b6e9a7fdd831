package registry_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// onBehalf lets the rights of clients decide in a block.
func onBehalf(c *upstream.Client) func(*namespace.Spec) {
	return func(s *namespace.Spec) {
		s.OnBehalf, s.AuthCheckTTL = true, time.Minute
		s.Upstreams, s.Grant, s.Place = upstream.NewChain(upstream.ChainOptions{}, c), c.Grant, c.Place()
	}
}

// account sends requests to a mirror as one account.
type account struct {
	t             *testing.T
	m             *mirror
	authorization string
}

func (c account) do(method, target string, body ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	r := httptest.NewRequestWithContext(c.t.Context(), method, target, strings.NewReader(strings.Join(body, "")))
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.authorization != "" {
		r.Header.Set("Authorization", c.authorization)
	}
	w := httptest.NewRecorder()
	c.m.handler.ServeHTTP(w, r)
	return w
}

// pull asks as clients do: without a token, then at the realm of the challenge, then with
// the token.
func (c account) pull(target string) *httptest.ResponseRecorder {
	c.t.Helper()
	first := account{c.t, c.m, ""}.do(http.MethodGet, target)
	challenge := first.Header().Get("WWW-Authenticate")
	if first.Code != http.StatusUnauthorized || !strings.HasPrefix(challenge, "Bearer ") {
		return first
	}
	params := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimPrefix(challenge, "Bearer "), ",") {
		name, value, _ := strings.Cut(part, "=")
		params[name] = strings.Trim(value, `"`)
	}
	realm, err := url.Parse(params["realm"])
	if err != nil {
		c.t.Fatal(err)
	}
	query := realm.Query()
	query.Set("service", params["service"])
	query.Set("scope", params["scope"])
	realm.RawQuery = query.Encode()
	answer := c.do(http.MethodGet, realm.String())
	if answer.Code != http.StatusOK {
		return answer
	}
	return account{c.t, c.m, "Bearer " + tokenOf(c.t, answer)}.do(http.MethodGet, target)
}

func tokenOf(t *testing.T, answer *httptest.ResponseRecorder) string {
	t.Helper()
	var document struct {
		Token     string
		ExpiresIn int `json:"expires_in"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &document); err != nil || document.Token == "" || document.ExpiresIn < 60 {
		t.Fatalf("%d %s: %v", answer.Code, answer.Body, err)
	}
	return document.Token
}

func asBasic(c upstream.Credential) string { return basic(c.Username, c.Password) }

var (
	reader   = upstream.Credential{Username: "alice", Password: "secret of alice"}
	outsider = upstream.Credential{Username: "bob", Password: "secret of bob"}
	guesser  = upstream.Credential{Username: "alice", Password: "guessed"}
)

// rights returns a registry of two accounts, of which one may read app and everyone public,
// and its mirror.
func rights(t *testing.T, options ...upstreamtest.Option) (*upstreamtest.Registry, *mirror) {
	t.Helper()
	r := upstreamtest.New(t, append(options, upstreamtest.WithAccounts(
		upstreamtest.Account{Username: reader.Username, Password: reader.Password, Repositories: []string{"app", "public"}},
		upstreamtest.Account{Username: outsider.Username, Password: outsider.Password, Repositories: []string{"public"}},
		upstreamtest.Account{Repositories: []string{"public"}},
	))...)
	r.AddImage("app", "v1", []byte("private"))
	r.AddImage("public", "v1", []byte("public"))
	c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(c.Close)
	return r, newMirror(t, block(t, r, onBehalf(c)))
}

func bearer() upstreamtest.Option { return upstreamtest.WithBearer(upstreamtest.Bearer{}) }

// The upstream decides for each client, by a token of the mirror's and by Basic.
func TestRightsOfClients(t *testing.T) {
	for name, options := range map[string][]upstreamtest.Option{"tokens": {bearer()}, "passwords": nil} {
		t.Run(name, func(t *testing.T) {
			_, m := rights(t, options...)
			for _, target := range []string{"/v2/up.example/app/manifests/v1", "/v2/app/manifests/v1?ns=up.example"} {
				for _, tc := range []struct {
					sender string
					pulled int
					direct int
				}{
					{asBasic(reader), 200, 200},
					{asBasic(reader), 200, 200}, // from the cache
					{asBasic(outsider), 401, 401},
					{asBasic(guesser), 401, 401},
					{"", 401, 401},
				} {
					// The token service of this registry gives a token without the right,
					// and the other kind of registry answers 403 to a known account.
					if name == "passwords" && tc.sender == asBasic(outsider) {
						tc.pulled, tc.direct = 403, 403
					}
					c := account{t, m, tc.sender}
					if w := c.pull(target); w.Code != tc.pulled {
						t.Errorf("%s by token of %q: %d %s", target, tc.sender, w.Code, w.Body)
					}
					w := c.do(http.MethodGet, target)
					if w.Code != tc.direct {
						t.Errorf("%s of %q: %d %s", target, tc.sender, w.Code, w.Body)
					}
					if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
						t.Errorf("%d with the challenge %q", w.Code, w.Header().Get("WWW-Authenticate"))
					}
					if control := w.Header().Get("Cache-Control"); strings.Contains(control, "public") {
						t.Errorf("other caches may keep it: %s", control)
					}
				}
			}
			if w := (account{t, m, ""}).do(http.MethodGet, "/v2/_catalog"); strings.Contains(w.Body.String(), "app") {
				t.Errorf("the catalog names it: %s", w.Body)
			}
			if strings.Contains(m.log.String(), "secret of") || strings.Contains(m.log.String(), "guessed") {
				t.Errorf("the log has a password: %s", m.log)
			}
		})
	}
}

// Content that everyone may read at the upstream is read without an account.
func TestAnonymousRights(t *testing.T) {
	_, m := rights(t, bearer())
	if w := (account{t, m, ""}).pull("/v2/up.example/public/manifests/v1"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A token is for one block and one upstream. No other block gets it, and no upstream gets a
// token of the mirror's.
func TestTokensOfOtherBlocks(t *testing.T) {
	_, m := rights(t, bearer())
	r2, m2 := rights(t, bearer())
	token := tokenOf(t, account{t, m, asBasic(reader)}.do(http.MethodGet, "/token?scope=repository:up.example/app:pull"))
	login := tokenOf(t, account{t, m, asBasic(reader)}.do(http.MethodGet, "/token"))
	for name, tc := range map[string]struct {
		m     *mirror
		token string
	}{"of another mirror": {m2, token}, "of a login": {m, login}, "forged": {m, "eyJ.b.c.d.e"}} {
		w := account{t, tc.m, "Bearer " + tc.token}.do(http.MethodGet, "/v2/up.example/app/manifests/v1")
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("a token %s: %d", name, w.Code)
		}
	}
	if got := r2.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %q", got)
	}
}

// GET and POST /token are what clients expect, and refuse the rest.
func TestTokenService(t *testing.T) {
	r, m := rights(t, bearer())
	form := func(pairs ...string) string {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		return values.Encode()
	}
	const scope = "repository:up.example/app:pull"
	for name, tc := range map[string]struct {
		method, query, body, sender string
		want                        int
	}{
		"docker":               {"GET", form("scope", scope, "service", "weir", "account", "alice", "client_id", "docker"), "", asBasic(reader), 200},
		"a push too":           {"GET", form("scope", "repository:up.example/app:push,pull"), "", asBasic(reader), 200},
		"several scopes":       {"GET", form("scope", "repository:nowhere/x:pull", "scope", scope), "", asBasic(reader), 200},
		"scopes in one":        {"GET", form("scope", "repository:nowhere/x:pull "+scope), "", asBasic(reader), 200},
		"login":                {"GET", "offline_token=true&service=weir", "", asBasic(reader), 200},
		"wrong login":          {"GET", "service=weir", "", asBasic(guesser), 401},
		"wrong password":       {"GET", form("scope", scope), "", asBasic(guesser), 401},
		"anonymous":            {"GET", form("scope", scope), "", "", 200},
		"containerd":           {"POST", "", form("grant_type", "password", "username", "alice", "password", reader.Password, "scope", scope, "service", "weir", "client_id", "containerd-client"), "", 200},
		"wrong form":           {"POST", "", form("grant_type", "password", "username", "alice", "password", "guessed", "scope", scope), "", 401},
		"refresh token":        {"POST", "", form("grant_type", "refresh_token", "refresh_token", "x"), "", 400},
		"huge form":            {"POST", "", form("grant_type", "password", "username", "alice", "password", strings.Repeat("x", 1<<20)), "", 400},
		"a name with NUL":      {"POST", "", form("grant_type", "password", "username", "a\x00", "password", "x"), "", 401},
		"PUT":                  {"PUT", "", "x", asBasic(reader), 405},
		"a token for a token":  {"GET", form("scope", scope), "", "Bearer abc", 400},
		"bad header":           {"GET", form("scope", scope), "", "Basic %%%", 401},
		"bad query":            {"GET", "scope=%zz", "", asBasic(reader), 400},
		"garbage among scopes": {"GET", form("scope", ": : repository repository: repository:x registry:catalog:*"), "", asBasic(reader), 200},
	} {
		t.Run(name, func(t *testing.T) {
			target := "/token"
			if tc.query != "" {
				target += "?" + tc.query
			}
			body := []string{}
			if tc.body != "" {
				body = append(body, tc.body)
			}
			w := account{t, m, tc.sender}.do(tc.method, target, body...)
			if w.Code != tc.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tc.want)
			}
			if w.Code == 200 && w.Header().Get("Cache-Control") != "no-store" {
				t.Error("caches may keep the token")
			}
		})
	}
	// Guesses are not repeated at the upstream.
	r.ResetRequests()
	for range 5 {
		account{t, m, asBasic(guesser)}.do(http.MethodGet, "/token?scope="+scope)
	}
	if got := r.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %q", got)
	}
}

// A mirror without such a block has no token service, and asks no client for credentials.
func TestNoTokenService(t *testing.T) {
	_, m := pair(t)
	c := account{t, m, ""}
	for target, want := range map[string]int{"/token": 404, "/v2/": 200} {
		if w := c.do(http.MethodGet, target); w.Code != want {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

// Docker decides by the answer to /v2/ whether it logs in.
func TestPingAsksForALogin(t *testing.T) {
	_, m := rights(t, bearer())
	login := tokenOf(t, account{t, m, asBasic(reader)}.do(http.MethodGet, "/token"))
	for name, tc := range map[string]struct {
		sender string
		want   int
	}{
		"none": {"", 401}, "token": {"Bearer " + login, 200}, "forged": {"Bearer eyJ.b.c.d.e", 401},
		"password": {asBasic(reader), 200}, "wrong": {asBasic(guesser), 401}, "of the upstream": {"Bearer abc", 200}, "Digest": {"Digest x", 401},
	} {
		w := account{t, m, tc.sender}.do(http.MethodGet, "/v2/")
		if w.Code != tc.want || (w.Code == 401) != strings.HasPrefix(w.Header().Get("WWW-Authenticate"), `Bearer realm="http://example.com/token",service="weir"`) {
			t.Errorf("%s: %d %q", name, w.Code, w.Header().Get("WWW-Authenticate"))
		}
	}
}

// Without a verdict, cached content is not served while the upstream is away.
func TestUndecidedRights(t *testing.T) {
	r, m := rights(t)
	if w := (account{t, m, asBasic(reader)}).do(http.MethodGet, "/v2/up.example/app/manifests/v1"); w.Code != 200 {
		t.Fatal(w.Code)
	}
	r.Close()
	w := account{t, m, asBasic(outsider)}.do(http.MethodGet, "/v2/up.example/app/manifests/v1")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Accounts of the mirror's own stand beside those of an upstream. In a block whose upstream
// decides, the header is the upstream's, and rules on addresses and certificates hold.
func TestRightsOfClientsBesideAccounts(t *testing.T) {
	r, m := rights(t, bearer())
	carol := upstream.Credential{Username: "carol", Password: "secret of carol"}
	r.SetAccounts(upstreamtest.Account{Username: carol.Username, Password: carol.Password, Repositories: []string{"app"}}, upstreamtest.Account{})
	opts, own, _ := alice(t, false)
	m.rules(opts)
	const target = "/v2/up.example/app/manifests/v1"
	if w := (account{t, m, asBasic(carol)}).pull(target); w.Code != http.StatusOK {
		t.Errorf("by a token: %d %s", w.Code, w.Body)
	}
	for name, tc := range map[string]struct {
		sender, target string
		want           int
	}{
		"the upstream's account": {asBasic(carol), target, 200}, "the mirror's account there": {own, target, 401}, "nobody": {"", target, 401},
		"the mirror's account at the root": {own, "/v2/", 200}, "the upstream's account at the root": {asBasic(carol), "/v2/", 401},
		"nobody at the root": {"", "/v2/", 401},
	} {
		w := account{t, m, tc.sender}.do(http.MethodGet, tc.target)
		if w.Code != tc.want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for _, sent := range r.Log() {
		if user, _, _ := (&http.Request{Header: sent.Header}).BasicAuth(); user != "" && sent.Header.Get("Authorization") == own {
			t.Errorf("the upstream got the password of the mirror's account: %s %s", sent.Method, sent.URI)
		}
	}
}

// A token service may refuse a right, or a password. A right that is refused says nothing
// about others of the same account, and its client is not asked for the password again.
func TestRefusedExchanges(t *testing.T) {
	r, m := rights(t, bearer())
	about := func(repo string) upstreamtest.Match {
		return func(req *http.Request) bool {
			return upstreamtest.Tokens(req) && strings.Contains(req.URL.Query().Get("scope"), ":"+repo+":")
		}
	}
	r.Fault(about("public"), upstreamtest.Status(403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`))
	for _, step := range []struct {
		sender     upstream.Credential
		repository string
		want       int
		asked      int // token requests upstream
	}{
		{reader, "public", 403, 1}, {reader, "public", 403, 0}, {reader, "app", 200, 1},
		{guesser, "app", 401, 1}, {guesser, "app", 401, 0}, {guesser, "public", 401, 0}, {guesser, "other", 401, 0},
		{reader, "app", 200, 0}, // whose token is still there
	} {
		r.ResetRequests()
		w := account{t, m, asBasic(step.sender)}.do(http.MethodGet, "/token?scope=repository:up.example/"+step.repository+":pull")
		if w.Code != step.want || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s of %s: %d %q %s", step.repository, step.sender.Password, w.Code, w.Header().Get("WWW-Authenticate"), w.Body)
		}
		if got := len(r.TokenRequests()); got != step.asked {
			t.Errorf("%s of %s: %d requests to the token service, want %d", step.repository, step.sender.Password, got, step.asked)
		}
	}
}

// A login without a repository is checked if all blocks mirror one registry. Otherwise no
// registry gets the password.
func TestLoginOfSeveralBlocks(t *testing.T) {
	first, m := rights(t, bearer())
	second := upstreamtest.New(t, bearer(), upstreamtest.WithAccounts(upstreamtest.Account{Username: "carol", Password: "x"}))
	at := func(key string, r *upstreamtest.Registry, path string) namespace.Spec {
		address := *r.URL
		address.Path = path
		c := upstream.NewClient(upstream.Options{URL: &address, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
		t.Cleanup(c.Close)
		return block(t, r, onBehalf(c), func(s *namespace.Spec) { s.Key, s.Host = key, "" })
	}
	for name, test := range map[string]struct {
		blocks []namespace.Spec
		wrong  int
		asked  bool
	}{
		"one registry":   {[]namespace.Spec{at("a", first, "/team"), at("b", first, "/other")}, 401, true},
		"two registries": {[]namespace.Spec{at("a", first, "/team"), at("b", second, "")}, 200, false},
	} {
		m.serve(test.blocks...)
		first.ResetRequests()
		second.ResetRequests()
		for target, want := range map[string]int{"/token?service=weir": test.wrong, "/v2/": test.wrong} {
			if w := (account{t, m, asBasic(guesser)}).do(http.MethodGet, target); w.Code != want {
				t.Errorf("%s, a wrong password at %s: %d %s", name, target, w.Code, w.Body)
			}
			if w := (account{t, m, asBasic(reader)}).do(http.MethodGet, target); w.Code != http.StatusOK {
				t.Errorf("%s, the right one at %s: %d %s", name, target, w.Code, w.Body)
			}
		}
		if asked := len(first.TokenRequests()) > 0; asked != test.asked || len(second.TokenRequests()) > 0 {
			t.Errorf("%s: the registries got %q and %q", name, first.TokenRequests(), second.TokenRequests())
		}
	}
}

// Some clients can send a token as a password only. No upstream gets it, not even that of
// another block.
func TestTokenAsPassword(t *testing.T) {
	r, m := rights(t, bearer())
	token := tokenOf(t, account{t, m, asBasic(reader)}.do(http.MethodGet, "/token?scope=repository:up.example/app:pull"))
	sender := account{t, m, basic("any", token)}
	for target, want := range map[string]int{"/v2/up.example/app/manifests/v1": 200, "/v2/": 200, "/token?scope=repository:up.example/app:pull": 400} {
		if w := sender.do(http.MethodGet, target); w.Code != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	other := upstreamtest.New(t, upstreamtest.WithAccounts(upstreamtest.Account{Username: "any", Password: token, Repositories: []string{"app"}}))
	c := upstream.NewClient(upstream.Options{URL: other.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(c.Close)
	m.serve(block(t, other, onBehalf(c)))
	if w := sender.do(http.MethodGet, "/v2/up.example/app/manifests/v1"); w.Code != 401 {
		t.Errorf("at another place: %d %s", w.Code, w.Body)
	}
	if got := append(other.Requests(), other.TokenRequests()...); len(got) != 0 {
		t.Errorf("another registry got %q", got)
	}
	for _, sent := range r.Log() {
		if user, password, _ := (&http.Request{Header: sent.Header}).BasicAuth(); user == "any" || password == token {
			t.Errorf("the registry got the token as a password: %s %s", sent.Method, sent.URI)
		}
	}
}

// A handler without rules is open, in blocks whose upstream decides as well.
func TestRightsWithoutRules(t *testing.T) {
	_, m := rights(t, bearer())
	m.handler = registry.New(registry.Options{Tables: &m.tables, Cache: m.cache, Grants: grants(t), Logger: slog.New(slog.DiscardHandler)})
	for target, want := range map[string]int{"/v2/": 401, "/token": 200, "/v2/up.example/app/manifests/v1": 401, "/v2/_catalog": 200, "/v2/nowhere/x/manifests/v1": 404} {
		if w := (account{t, m, ""}).do(http.MethodGet, target); w.Code != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if w := (account{t, m, asBasic(reader)}).pull("/v2/up.example/app/manifests/v1"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A password that the registry refused is refused for a minute without asking it again, also
// without a token of the mirror's, for that repository or, if its token service refused it,
// for all. One that lacks a right is no guess.
func TestRefusedPasswordsAreRemembered(t *testing.T) {
	const app, public = "/v2/up.example/app/manifests/v1", "/v2/up.example/public/manifests/v1"
	for name, test := range map[string]struct {
		options []upstreamtest.Option
		asked   map[string]bool // of the second request
	}{
		"passwords": {nil, map[string]bool{asBasic(guesser) + app: false, asBasic(guesser) + public: true, asBasic(outsider) + app: true, app: true}},
		"tokens":    {[]upstreamtest.Option{bearer()}, map[string]bool{asBasic(guesser) + app: false, asBasic(guesser) + public: false, app: true}},
	} {
		for key, asked := range test.asked {
			r, m := rights(t, test.options...)
			sender, target, _ := strings.Cut(key, "/v2/")
			target = "/v2/" + target
			ask := func(target string) *httptest.ResponseRecorder {
				return account{t, m, sender}.do(http.MethodGet, target)
			}
			first := ask(app)
			r.ResetRequests()
			second := ask(target)
			if got := len(r.Requests())+len(r.TokenRequests()) > 0; got != asked {
				t.Errorf("%s, %s: the upstream got %q", name, key, r.Requests())
			}
			if first.Code < 400 || target == app && first.Code != second.Code || second.Code == 401 && second.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s, %s: %d and %d %s", name, key, first.Code, second.Code, second.Body)
			}
			// The right password is not locked out by the guesses.
			if w := (account{t, m, asBasic(reader)}).do(http.MethodGet, app); w.Code != http.StatusOK {
				t.Errorf("%s, %s: the right password: %d %s", name, key, w.Code, w.Body)
			}
		}
	}
}

// Logins at a registry that hangs are bounded, those that wait too, and stop none at another one.
func TestLoginsOfEachRegistry(t *testing.T) {
	slow, m := rights(t, bearer())
	second := upstreamtest.New(t, bearer(), upstreamtest.WithAccounts(upstreamtest.Account{Username: "alice", Password: reader.Password, Repositories: []string{"app"}}))
	other := upstream.NewClient(upstream.Options{URL: second.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	hanging := upstream.NewClient(upstream.Options{URL: slow.URL, ConnectTimeout: time.Minute, ReadTimeout: time.Minute})
	t.Cleanup(other.Close)
	t.Cleanup(hanging.Close)
	m.serve(block(t, slow, onBehalf(hanging)), block(t, second, onBehalf(other), func(s *namespace.Spec) { s.Key, s.Host = "other.example", "" }))
	gate := upstreamtest.NewGate()
	slow.Fault(upstreamtest.Tokens, upstreamtest.Hold(gate))
	login := func(password, block string) int {
		c := upstream.Credential{Username: "alice", Password: password}
		return account{t, m, asBasic(c)}.do(http.MethodGet, "/token?scope=repository:"+block+"/app:pull").Code
	}
	const most = 32 + 128 // that run, and that wait of one network
	answers := make(chan int, most+1)
	for i := range most + 1 {
		go func() { answers <- login(fmt.Sprint(i), "up.example") }()
	}
	if err := gate.Arrived(t.Context(), 32); err != nil {
		t.Fatal(err)
	}
	// All others wait for one that the registry holds up.
	if got := <-answers; got != http.StatusServiceUnavailable {
		t.Errorf("one more login: %d", got)
	}
	if got := login(reader.Password, "other.example"); got != http.StatusOK {
		t.Errorf("a login at another registry: %d", got)
	}
	gate.Open()
	for range most {
		if got := <-answers; got != http.StatusUnauthorized {
			t.Errorf("a guess that waited: %d", got)
		}
	}
	if got := login(reader.Password, "up.example"); got != http.StatusOK {
		t.Errorf("a login after them: %d", got)
	}
}

// A token that the client got from the registry itself opens what the registry gave it for,
// and nothing that others have cached.
func TestTokensOfTheUpstream(t *testing.T) {
	r, m := rights(t, bearer())
	get := func(c upstream.Credential, repository string) account {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.TokenURL()+"?scope=repository:"+repository+":pull", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(c.Username, c.Password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct{ Token string }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
			t.Fatalf("%v %+v", err, answer)
		}
		return account{t, m, "Bearer " + answer.Token}
	}
	const app, public = "/v2/up.example/app/manifests/v1", "/v2/up.example/public/manifests/v1"
	ofApp, ofPublic, without := get(reader, "app"), get(reader, "public"), get(outsider, "app")
	for range 2 { // the second time from the cache
		for name, step := range map[string]struct {
			sender account
			target string
			want   int
		}{
			"its repository": {ofApp, app, 200}, "another one of the same account": {ofApp, public, 401}, "the other token": {ofPublic, public, 200},
			"the other way round": {ofPublic, app, 401}, "no right": {without, app, 401}, "a part of a token": {account{t, m, ofApp.authorization[:len(ofApp.authorization)-1]}, app, 401},
			"a longer token": {account{t, m, ofApp.authorization + strings.Repeat("x", 16<<10)}, app, 401}, "a giant one": {account{t, m, ofApp.authorization + strings.Repeat("x", 64<<10)}, app, 401},
			"as a password": {account{t, m, basic("any", strings.TrimPrefix(ofApp.authorization, "Bearer "))}, app, 401},
		} {
			w := step.sender.do(http.MethodGet, step.target)
			if w.Code != step.want || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
	}
	r.RevokeTokens()
	if w := ofApp.do(http.MethodGet, "/v2/up.example/app/tags/list"); w.Code != http.StatusUnauthorized {
		t.Errorf("after the end of the token: %d %s", w.Code, w.Body)
	}
	if w := ofApp.do(http.MethodGet, app); w.Code != http.StatusUnauthorized { // the refusal has ended the verdict
		t.Errorf("cached, after the end of the token: %d %s", w.Code, w.Body)
	}
}
