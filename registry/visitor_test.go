package registry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// requestsOfAll returns a request of each operation.
func requestsOfAll() map[string]string {
	dgst := digest.FromString("a layer").String()
	return map[string]string{
		"ping": "GET /v2/", "catalog": "GET /v2/_catalog",
		"manifest": "GET /v2/up.example/app/manifests/v1", "head": "HEAD /v2/up.example/app/manifests/v1",
		"digest": "GET /v2/up.example/app/manifests/" + dgst,
		"blob":   "GET /v2/up.example/app/blobs/" + dgst, "head of a blob": "HEAD /v2/up.example/app/blobs/" + dgst,
		"tags": "GET /v2/up.example/app/tags/list", "referrers": "GET /v2/up.example/app/referrers/" + dgst,
		"write": "PUT /v2/up.example/app/manifests/v1",
	}
}

// alice returns rules under which alice has a password, and Basic headers with her
// password and with another one.
func alice(t *testing.T, anonymous bool) (opts access.Options, right, wrong string) {
	t.Helper()
	hash, err := access.ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO") // the least cost
	if err != nil {
		t.Fatal(err)
	}
	opts = access.Options{Anonymous: anonymous, Realm: "Weir", Accounts: []access.Account{{User: "alice", Hash: hash}}}
	return opts, basic("alice", "secret"), basic("alice", "guess")
}

func basic(user, password string) string {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// A refusal comes before any lookup: the upstream is not asked, stored content is
// not served, and the refusal is the answer.
func TestRefusalComesBeforeAnyLookup(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	for name, line := range requestsOfAll() { // fills the cache
		method, path, _ := strings.Cut(line, " ")
		if w := m.do(method, path); w.Code == http.StatusForbidden {
			t.Fatalf("%s: %d", name, w.Code)
		}
	}
	m.settle()
	r.ResetRequests()
	opts, right, wrong := alice(t, false)
	m.rules(opts)
	requests := requestsOfAll()
	requests["a name of no block"] = "GET /v2/nowhere/app/tags/list"
	for name, line := range requests {
		method, path, _ := strings.Cut(line, " ")
		for _, header := range [][]string{nil, {"Authorization", wrong}} {
			w := m.do(method, path, header...)
			wantStatus(t, w, http.StatusUnauthorized)
			if method != "HEAD" {
				wantError(t, w, http.StatusUnauthorized, "UNAUTHORIZED")
			}
			wantHeader(t, w.Header(), "Cache-Status", "", "Docker-Content-Digest", "", "OCI-Namespace", "", "WWW-Authenticate", `Basic realm="Weir"`)
			if body := w.Body.String(); strings.Contains(body, "up.example") || strings.Contains(body, "read-only") {
				t.Errorf("%s: the refusal tells of the mirror: %s", name, body)
			}
		}
	}
	if asked := r.Requests(); len(asked) > 0 {
		t.Errorf("the upstream was asked %q", asked)
	}
	for _, path := range []string{"/v2/", "/v2/up.example/app/manifests/v1", "/v2/_catalog"} {
		wantStatus(t, m.do("GET", path, "Authorization", right), http.StatusOK)
	}
	// A known client learns how to push, and which names there are.
	wantError(t, m.do("PUT", "/v2/up.example/app/manifests/v1", "Authorization", right), http.StatusUnauthorized, "UNAUTHORIZED")
	wantError(t, m.do("GET", "/v2/nowhere/app/tags/list", "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
}

// Wrong credentials are refused although the client needs none, so that their user
// notices them.
func TestWrongCredentialsWhereNoneAreNeeded(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	opts, right, wrong := alice(t, true)
	m.rules(opts)
	for header, want := range map[string]int{"": 200, right: 200, wrong: 401, "Bearer x.y.z": 401, "Digest a=b": 401, "Basic !": 401} {
		var headers []string
		if header != "" {
			headers = []string{"Authorization", header}
		}
		for _, path := range []string{"/v2/", "/v2/up.example/app/manifests/v1"} {
			wantStatus(t, m.do("GET", path, headers...), want)
		}
	}
}

// The log names the user, and no part of a credential. An open mirror knows no users.
func TestUserInTheLog(t *testing.T) {
	_, m := pair(t)
	opts, right, wrong := alice(t, false)
	m.do("GET", "/v2/", "Authorization", right)
	m.rules(opts)
	m.do("GET", "/v2/", "Authorization", right)
	m.do("GET", "/v2/", "Authorization", wrong)
	m.do("GET", "/v2/")
	var users []any
	for _, line := range m.log.requests(t) {
		users = append(users, line["user"])
	}
	if len(users) != 4 || users[0] != nil || users[1] != "alice" || users[2] != nil || users[3] != nil {
		t.Errorf("users %v", users)
	}
	for _, secret := range []string{"guess", "secret", right[6:], wrong[6:]} {
		if strings.Contains(m.log.String(), secret) {
			t.Errorf("the log has %q: %s", secret, m.log)
		}
	}
}

// A stranger who claims that its request has come back learns nothing of the blocks and
// their upstreams.
func TestLoopTellsStrangersNothing(t *testing.T) {
	r, m := pair(t)
	opts, _, _ := alice(t, false)
	m.rules(opts)
	for _, target := range []string{
		"/v2/up.example/app/manifests/v1", "/v2/app/manifests/v1?ns=up.example", "http://" + r.Host + "/v2/nowhere/app/manifests/v1",
		"/v2/nowhere/app/manifests/v1", "/v2/up.example/app/tags/list", "/v2/_catalog", "/v2/",
	} {
		message := wantError(t, m.do("GET", target, "Via", "1.1 weir-me"), http.StatusLoopDetected, "LOOP")
		if message != "an upstream leads back to this mirror" {
			t.Errorf("%s: %s", target, message)
		}
	}
}

// The message about an unknown name lists the blocks that the client may pull from, and
// proposes no other one.
func TestUnknownNamesTellWhatMayBePulled(t *testing.T) {
	r := upstreamtest.New(t)
	m := newMirror(t, block(t, r, named("open.example")), block(t, r, named("secret.example")), block(t, r, named("secret.example/deep")))
	opts, right, _ := alice(t, true)
	opts.Blocks = []access.Block{
		{Key: "open.example"}, {Key: "secret.example", Allow: subjects(t, "bob")},
		{Key: "secret.example/deep", Policy: &access.Policy{Rules: []string{`identity.username == 'bob'`}}},
	}
	m.rules(opts)
	const none = "no configured repository answers this name: "
	for name, want := range map[string]string{
		"nowhere/app":           "; names begin with open.example",
		"secert.example/app":    "; names begin with open.example",
		"secret.exampel/deep/a": "; names begin with open.example",
		"opne.example/app":      "; did you mean open.example/app? names begin with open.example",
	} {
		message := wantError(t, m.do("GET", "/v2/"+name+"/manifests/v1", "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
		if message != none+name+want {
			t.Error(message)
		}
	}
	message := wantError(t, m.do("GET", "/v2/app/manifests/v1?ns=secret.example.net", "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
	if strings.Contains(message, "secret.example/") || strings.Contains(message, "deep") {
		t.Error(message)
	}
	opts.Blocks[0].Allow = subjects(t, "bob")
	m.rules(opts)
	message = wantError(t, m.do("GET", "/v2/nowhere/app/manifests/v1", "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
	if message != none+"nowhere/app; there is none that you may pull from" {
		t.Error(message)
	}
}

// A shared cache keeps no answer that another client may not have: not behind rules, and not
// where the upstream decides. Errors in front of them are kept by none.
func TestSharedCachesKeepNothingOfLockedMirrors(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	opts, right, wrong := alice(t, true)
	opts.Blocks = []access.Block{{Key: "up.example", Allow: subjects(t, "alice")}}
	m.rules(opts)
	for _, header := range []string{right, wrong, ""} {
		requests := requestsOfAll()
		requests["missing"], requests["a name of no block"] = "GET /v2/up.example/app/manifests/v2", "GET /v2/nowhere/app/tags/list"
		for name, line := range requests {
			method, path, _ := strings.Cut(line, " ")
			w := m.do(method, path, "Authorization", header)
			if control := w.Header().Get("Cache-Control"); !strings.HasPrefix(control, "private") && control != "no-store" {
				t.Errorf("%s, %q: %d, Cache-Control %q", name, header, w.Code, control)
			}
		}
	}
	// The certificate or the address of a client is in no header that tells a cache apart.
	opts.Blocks[0].Allow = subjects(t, "cidr:192.0.2.1")
	m.rules(opts)
	for target, want := range map[string]string{"app/manifests/v1": "private, no-cache", "app/tags/list": "private, no-cache", "app/manifests/v2": "no-store"} {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/up.example/"+target, nil)
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, req)
		wantHeader(t, w.Header(), "Cache-Control", want)
	}
	_, own := rights(t)
	for target, want := range map[string]string{"app/manifests/v1": "private, no-cache", "app/tags/list": "private, no-cache", "app/manifests/v2": "no-store"} {
		wantHeader(t, own.do("GET", "/v2/up.example/"+target, "Authorization", asBasic(reader)).Header(), "Cache-Control", want)
	}
}

// A request that found a block which a reload removes at this moment is not answered by rules
// that do not know the block: it may have been a locked one.
func TestRulesOfARemovedBlock(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("app", "v1", []byte("a layer"))
	m := newMirror(t, block(t, r, named("secret.example")), block(t, r, named("open.example")))
	right := basic("alice", "secret")
	for name, opts := range map[string]access.Options{
		"the mirror is open now": {Anonymous: true},
		"another list":           {Anonymous: true, Blocks: []access.Block{{Key: "open.example", Allow: subjects(t, "authenticated")}}},
	} {
		if opts.Blocks == nil {
			opts.Blocks = []access.Block{{Key: "open.example"}}
		}
		m.rules(opts)
		for _, header := range []string{"", right} {
			for _, path := range []string{"secret.example/app/manifests/v1", "secret.example/app/tags/list", "app/manifests/v1?ns=secret.example"} {
				w := m.do("GET", "/v2/"+path, "Authorization", header)
				if w.Code != http.StatusNotFound && w.Code != http.StatusUnauthorized {
					t.Errorf("%s, %s: %d %s", name, path, w.Code, w.Body)
				}
			}
		}
	}
	if asked := r.Requests(); len(asked) > 0 {
		t.Errorf("the upstream was asked %q", asked)
	}
	m.rules(access.Options{Anonymous: true})
	wantStatus(t, m.do("GET", "/v2/open.example/app/manifests/v1"), http.StatusOK)
}

// The host that a client sends stays inside its quotes in a challenge (RFC 9110 section
// 5.6.4). HTTP/2, and an absolute URL, let it have any character.
func TestChallengeWithAnOddHost(t *testing.T) {
	_, own := rights(t)
	_, locked := pair(t)
	opts, _, _ := alice(t, false)
	opts.Tokens = access.TokenOptions{Key: []byte(strings.Repeat("k", 32)), TTL: time.Hour}
	locked.rules(opts)
	for host, want := range map[string]string{
		"mirror:8000": `"http://mirror:8000/token"`, `a",realm="http://evil.example/token`: `"http://a\",realm=\"http://evil.example/token/token"`, `a\`: `"http://a\\/token"`,
	} {
		for _, m := range []*mirror{own, locked} {
			req := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/up.example/app/manifests/v1", nil)
			req.Host = host
			w := httptest.NewRecorder()
			m.handler.ServeHTTP(w, req)
			wantStatus(t, w, http.StatusUnauthorized)
			wantHeader(t, w.Header(), "WWW-Authenticate", "Bearer realm="+want+`,service="weir",scope="repository:up.example/app:pull"`)
		}
	}
}
