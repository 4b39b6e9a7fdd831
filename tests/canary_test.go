package tests

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// words are secrets of the configuration and of clients, each of which is found by itself.
const (
	wordOfUpstream = "canary-upstream-word"
	wordOfRedis    = "canary-redis-word"
	wordOfSeal     = "canary-seal-word-canary-seal-word"
	wordOfService  = "canary-token-service-key-of-32-b"
	wordOfWebhook  = "canary-webhook-token"
	wordOfTracing  = "canary-tracing-word"
	wordOfProxy    = "canary-proxy-word"
	wordOfUser     = "canary-password-of-a-user"
	wordOfGuess    = "canary-password-of-a-guesser"
	wordOfToken    = "canary-token-of-a-client"
	wordOfQuery    = "canary-in-a-query"
	wordOfForm     = "canary-in-a-form"
	wordOfHeader   = "canary-in-another-header"
)

// leaks returns the secrets in a text: as they are, in base64 or escaped, as parts of a URL.
func leaks(text string) (found []string) {
	for _, word := range []string{
		wordOfUpstream, wordOfRedis, wordOfSeal, wordOfService, wordOfWebhook, wordOfTracing, wordOfProxy, wordOfUser, wordOfGuess, wordOfToken, wordOfQuery,
		wordOfForm, wordOfHeader, "$argon2id$", "YWxpY2U6Y2FuYXJ5", // alice:canary
	} {
		for _, form := range []string{word, base64.StdEncoding.EncodeToString([]byte(word)), base64.RawURLEncoding.EncodeToString([]byte(word)), url.QueryEscape(word)} {
			if strings.Contains(text, form) {
				found = append(found, form)
			}
		}
	}
	return found
}

// No secret of the configuration, and none that a client sends, is in the log at the level
// debug, in an answer, a metric, a trace, a profile, the stacks of a crash, the report of weir
// check, the store, or a name in Redis.
func TestCanaries(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--requirepass", wordOfRedis)
	receiver := startReceiver(t)
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: wordOfUpstream}))
	r.AddImage("org/app", "v1", []byte("a layer"))
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.Header.Get("X-Forwarded-Uri"), "refused") {
			http.Error(w, "no", http.StatusTeapot)
		}
	}))
	t.Cleanup(hook.Close)
	admin := testutil.FreeAddr(t)
	hash := exec.Command(harness.Binary(t), "auth", "hash")
	hash.Stdin = strings.NewReader(wordOfUser + "\n")
	config := fmt.Sprintf("[server]\nadmin_address = %q\n", admin) +
		fmt.Sprintf("[observability.tracing]\nendpoint = %q\n", strings.Replace(receiver.URL, "//", "//user:"+wordOfTracing+"@", 1)) +
		fmt.Sprintf("[cache.redis]\nurl = %q\nsecret_key = %q\n", strings.Replace(redis.URL(), "//", "//:"+wordOfRedis+"@", 1), wordOfSeal) +
		fmt.Sprintf("[auth.identity.alice]\nusername = \"alice\"\npassword = %q\n", strings.TrimSpace(harness.Run(t, hash))) +
		fmt.Sprintf("[auth.token_service]\nsecret_key = %q\n", base64.StdEncoding.EncodeToString([]byte(wordOfService))) +
		fmt.Sprintf("[auth.webhook.opa]\nurl = %q\nbearer_token = %q\n", hook.URL, wordOfWebhook) +
		blockOf("up", []string{`authorization_webhook = "opa"`}, at(r, `username = "reader"`, fmt.Sprintf("password = %q", wordOfUpstream))) +
		blockOf("away", nil, []string{`url = "http://127.0.0.1:1"`, fmt.Sprintf("proxy = %q", "http://user:"+wordOfProxy+"@127.0.0.1:1")}) +
		blockOf("own", []string{`authorize = "upstream"`}, at(r))
	w := harness.StartWeir(t, config)
	expectNone := func(where, text string) {
		t.Helper()
		if found := leaks(text); len(found) > 0 {
			t.Errorf("%s has %q", where, found)
		}
	}

	right, wrong := basicOf("alice:"+wordOfUser), basicOf("alice:"+wordOfGuess)
	for _, authorization := range []string{
		"", right, wrong, basicOf("mallory:" + wordOfGuess), "Bearer " + wordOfToken, "Bearer eyJhbGciOiJIUzI1NiJ9." + wordOfToken + ".c2ln", "Bearer eyJhbGciOiJSUzI1NiJ9." + wordOfToken + ".x",
		"Basic " + wordOfToken, wordOfToken, "Digest response=" + wordOfToken, "Bearer " + strings.Repeat(wordOfToken, 2000), "Bearer a." + wordOfToken + ".c.d.e",
	} {
		for _, path := range []string{
			"/v2/", "/v2/_catalog", manifestPath("up/org/app", "v1"), manifestPath("up/org/app", "missing"), manifestPath("up/refused", "v1"), manifestPath("away/app", "v1"),
			manifestPath("own/org/app", "v1"), manifestPath("nowhere/app", "v1"), "/", "/metrics", "/nowhere", "/v2/up/org/app/tags/list?n=x&token=" + wordOfQuery,
			manifestPath("up/org/app", "v1") + "?password=" + wordOfQuery, "/v2/up/org/app/tags/list?last=%zz" + "&access_token=" + wordOfQuery[:10],
			"/token?service=weir&scope=repository:own/org/app:pull&account=alice&password=" + wordOfQuery, "/token?password=" + wordOfQuery,
		} {
			a := w.Do(t, "GET", path, "Authorization", authorization, "Cookie", "session="+wordOfHeader, "Proxy-Authorization", "Basic "+wordOfHeader, "X-Registry-Auth", wordOfHeader)
			expectNone("the answer at "+path, fmt.Sprint(a.Header, string(a.Body)))
		}
	}
	for _, form := range []url.Values{
		{"grant_type": {"password"}, "username": {"alice"}, "password": {wordOfForm}},
		{"grant_type": {"password"}, "username": {"eve"}, "password": {wordOfForm}, "scope": {"repository:own/org/app:pull"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {wordOfForm}},
	} {
		resp, err := http.PostForm(w.URL+"/token", form)
		harness.Must(t, err)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%v gets a token", form)
		}
	}
	expect(t, "a pull", w.Get(t, manifestPath("up/org/app", "v1"), "Authorization", right), http.StatusOK, "")

	// A configuration that is wrong, and whose secrets are, is named without them.
	broken := strings.NewReplacer(base64.StdEncoding.EncodeToString([]byte(wordOfService)), wordOfService[:20], "$argon2id$", "$argon2$", "http://user:"+wordOfProxy, "nohttp://user:"+wordOfProxy).Replace(config)
	harness.WriteFile(t, w.Config, broken)
	w.Logs(t, "the changed configuration cannot be used")
	for name, text := range map[string]string{"check": config, "check of a wrong configuration": broken} {
		file := filepath.Join(t.TempDir(), "weir.toml")
		harness.WriteFile(t, file, text)
		for _, args := range [][]string{{"check", file}, {"check", "--online", "--timeout", "1s", file}} {
			out, err := exec.CommandContext(t.Context(), harness.Binary(t), args...).CombinedOutput()
			expectNone(name, string(out))
			if strings.Contains(name, "wrong") && err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+path, nil)
		harness.Must(t, err)
		req.Header.Set("Authorization", right)
		resp, err := http.DefaultClient.Do(req)
		harness.Must(t, err)
		body := new(strings.Builder)
		err = resp.Write(body)
		resp.Body.Close()
		harness.Must(t, err)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
		expectNone(path, body.String())
	}
	// Values hold tokens of the configured upstreams.
	expectNone("Redis", redisCLI(t, redis, []string{"-a", wordOfRedis, "--no-auth-warning"}, "KEYS", "*"))
	harness.Must(t, filepath.WalkDir(w.Data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // a file of this moment
		}
		content, err := os.ReadFile(path)
		if err == nil {
			expectNone(path, path+string(content))
		}
		return nil
	}))
	// The stacks of all goroutines, as of a crash.
	harness.Must(t, w.Cmd.Process.Signal(syscall.SIGQUIT))
	<-w.Exited
	if !strings.Contains(w.Log.String(), "goroutine 1 ") {
		t.Error("the process left no stacks")
	}
	expectNone("the log", w.Log.String())
	for _, span := range receiver.all() {
		expectNone("a span", span.String())
	}
}
