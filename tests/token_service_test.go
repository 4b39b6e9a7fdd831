package tests

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// With a token service, a client is sent to /token, shows its password there, to GET or as
// a form, and then pulls with the token. A user who is removed has no valid token any more.
func TestTokenService(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	const service = "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
	user := func(name string) string {
		return "[auth.identity." + name + "]\nusername = \"" + name + "\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n"
	}
	w := harness.StartWeir(t, service+user("alice")+user("bob")+blockOf("up", nil, at(r)))
	image := manifestPath("up/org/app", "v1")
	challenge := `Bearer realm="http://` + w.Addr + `/token",service="weir"`
	for path, scope := range map[string]string{"/v2/": "", image: `,scope="repository:up/org/app:pull"`, "/v2/_catalog": `,scope="registry:catalog:*"`, "/metrics": ""} {
		if got := w.Get(t, path); got.Status != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") != challenge+scope {
			t.Errorf("%s: %d %v", path, got.Status, got.Header)
		}
	}
	ask := func(method, user, password string, form url.Values) (status int, token string, header http.Header) {
		t.Helper()
		var body io.Reader
		if form != nil {
			body = strings.NewReader(form.Encode())
		}
		req, err := http.NewRequestWithContext(t.Context(), method, w.URL+"/token?service=weir&scope=repository:up/org/app:pull", body)
		harness.Must(t, err)
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := http.DefaultClient.Do(req)
		harness.Must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		harness.Must(t, err)
		var answer struct {
			Token       string `json:"token"`
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
			IssuedAt    string `json:"issued_at"`
		}
		if resp.StatusCode == http.StatusOK {
			if err := json.Unmarshal(text, &answer); err != nil || answer.Token == "" || answer.Token != answer.AccessToken || answer.ExpiresIn != 3600 || answer.IssuedAt == "" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %v, %v", text, err, resp.Header)
			}
		}
		if bytes.Contains(text, []byte("secret")) && resp.StatusCode != http.StatusOK {
			t.Errorf("the answer has the password: %s", text)
		}
		return resp.StatusCode, answer.Token, resp.Header
	}
	password := func(user, password string) url.Values {
		return url.Values{"grant_type": {"password"}, "username": {user}, "password": {password}, "service": {"weir"}, "client_id": {"containerd-client"}}
	}
	for name, c := range map[string]struct {
		method, user, password string
		form                   url.Values
		want                   int
	}{
		"no credentials":      {"GET", "", "", nil, 401},
		"a wrong password":    {"GET", "alice", "guess", nil, 401},
		"a form":              {"POST", "", "", password("bob", "secret"), 200},
		"a wrong form":        {"POST", "", "", password("bob", "guess"), 401},
		"a form of a refresh": {"POST", "", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400},
		"an empty form":       {"POST", "alice", "secret", url.Values{}, 400},
		"a form of 1 MiB":     {"POST", "", "", password("bob", strings.Repeat("x", 1<<20)), 400},
		"a write":             {"PUT", "alice", "secret", nil, 405},
		"a colon in the user": {"POST", "", "", password("alice:secret", ""), 401},
		"the right password":  {"GET", "alice", "secret", nil, 200},
	} {
		status, _, header := ask(c.method, c.user, c.password, c.form)
		if status != c.want || status == 401 && header.Get("WWW-Authenticate") != `Basic realm="Weir"` {
			t.Errorf("%s: %d %v", name, status, header)
		}
	}
	// A client shows its user the message of an error document only.
	if got := w.Get(t, "/token", "Authorization", basicOf("alice:guess")); got.ErrorCode() != "UNAUTHORIZED" || !strings.Contains(string(got.Body), "the credentials are not valid. Check the username and the password") {
		t.Errorf("a wrong password: %s", got.Body)
	}
	// The log has the reason that the client is not told, and the user.
	w.Logs(t, `"level":"INFO"`, `"operation":"token"`, `"status":401`, `"error":"the credentials of the request are not valid (password: wrong password)"`)
	w.Logs(t, `"operation":"token"`, `"status":200`, `"user":"bob"`)
	pull := func(token string) int { return w.Get(t, image, "Authorization", "Bearer "+token).Status }
	_, alices, _ := ask("GET", "alice", "secret", nil)
	_, bobs, _ := ask("POST", "", "", password("bob", "secret"))
	for _, token := range []string{alices, bobs} {
		if got := pull(token); got != http.StatusOK {
			t.Errorf("a pull with a token: %d", got)
		}
	}
	if got := pull(alices + "x"); got != http.StatusUnauthorized {
		t.Errorf("a pull with a changed token: %d", got)
	}
	// A token is not worth a newer one.
	if got := w.Get(t, "/token", "Authorization", "Bearer "+alices); got.Status != http.StatusUnauthorized {
		t.Errorf("a token for a token: %d", got.Status)
	}
	harness.WriteFile(t, w.Config, service+user("alice")+blockOf("up", nil, at(r)))
	harness.Eventually(t, "the removed user's token is refused", func() bool { return pull(bobs) == http.StatusUnauthorized })
	if got := pull(alices); got != http.StatusOK {
		t.Errorf("the other token: %d", got)
	}
	for _, token := range []string{alices, bobs} {
		if strings.Contains(w.Log.String(), token) {
			t.Error("the log has a token")
		}
	}
	// Without the service there is no such page.
	harness.WriteFile(t, w.Config, user("alice")+blockOf("up", nil, at(r)))
	harness.Eventually(t, "the service is gone", func() bool { return w.Get(t, "/token").Status == http.StatusNotFound })
}
