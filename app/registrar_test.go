package app

import (
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirhq/weir/config"
)

const addPage = "/add-registry"

var shownBlock = regexp.MustCompile(`data-copy="([^"]*)"`)

// registryForm returns the form of a registry with any address.
func registryForm(address string, more ...string) url.Values {
	form := url.Values{"kind": {"private"}, "key": {"registry.example"}, "url": {address}}
	for i := 0; i+1 < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return form
}

// newCounted returns a registry that asks for a login and counts requests.
func newCounted(t *testing.T) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	requests := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if user, password, _ := r.BasicAuth(); user != "alice" || password != "s3cret-word" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("{}")) // the trial fails without it
	}))
	t.Cleanup(server.Close)
	return server, requests
}

// The page has a form for each kind of registry, for those who may add one.
func TestAddRegistryPage(t *testing.T) {
	m := newPagesMirror(t, "")
	for _, kind := range []string{"docker.io", "ghcr.io", "quay.io", "gitlab", "ecr", "gar", "acr", "private", "private-ca", "mtls", "none"} {
		w := visit(t, m.handler, "GET", addPage+"?kind="+kind, nil)
		if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, `method="post"`) || strings.Contains(body, " style=") {
			t.Errorf("%s: %d\n%s", kind, w.Code, body)
		}
	}
	if w := visit(t, m.handler, "GET", addPage, nil, "X-Forwarded-For", "192.0.2.1"); w.Code != 403 {
		t.Errorf("a client that may change nothing sees the form: %d", w.Code)
	}
	if w := visit(t, m.handler, "GET", "/upstreams", nil); !strings.Contains(w.Body.String(), addPage) {
		t.Error("no page leads to the form")
	}
}

// The form needs the right to change the cache, and to know of all blocks.
func TestAddRegistryNeedsRights(t *testing.T) {
	server, requests := newCounted(t)
	const private = "[ui]\nallow_private_registries = true\n"
	m := newPagesMirror(t, private)
	form := registryForm(server.URL)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"X-Forwarded-For", "192.0.2.1"}} {
		if w := visit(t, m.handler, "POST", addPage, form, header[0], header[1]); w.Code != 403 {
			t.Errorf("%v: %d", header, w.Code)
		}
	}
	const user = "[auth.identity.a]\nusername = \"a\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n" // secret
	const hidden = "[repository.hidden]\nallow = [\"nobody\"]\n[[repository.hidden.upstream]]\nurl = \"https://hidden.example\"\n"
	const right = "Basic YTpzZWNyZXQ="
	locked := newPagesMirror(t, private+user+hidden)
	for auth, want := range map[string]int{"": 401, "Basic YTp3cm9uZw==": 401, right: 403} {
		for _, method := range []string{"GET", "POST"} {
			if w := visit(t, locked.handler, method, addPage, form, "Authorization", auth); w.Code != want {
				t.Errorf("%s %q: %d, want %d", method, auth, w.Code, want)
			}
		}
	}
	readers := newPagesMirror(t, private+user+"[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-change'\"]\n")
	for _, method := range []string{"GET", "POST"} {
		if w := visit(t, readers.handler, method, addPage, form, "Authorization", right); w.Code != 403 {
			t.Errorf("%s by one who may change nothing: %d", method, w.Code)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("the registry got %d requests", n)
	}
	open := newPagesMirror(t, private+user)
	if w := visit(t, open.handler, "POST", addPage, form, "Authorization", right); w.Code != 200 || requests.Load() == 0 {
		t.Errorf("one who may add registries: %d, %d requests", w.Code, requests.Load())
	}
}

// The trial reaches private addresses only if the operator allows it, with the login of the form.
// No answer has the password.
func TestTrialOfARegistry(t *testing.T) {
	server, requests := newCounted(t)
	form := registryForm(server.URL, "username", "alice", "password", "s3cret-word")
	closed := newPagesMirror(t, "")
	w := visit(t, closed.handler, "POST", addPage, form)
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, "ui.allow_private_registries") || !strings.Contains(body, "It does not work") || requests.Load() != 0 {
		t.Errorf("a private address: %d, %d requests\n%s", w.Code, requests.Load(), body)
	}
	m := newPagesMirror(t, "[ui]\nallow_private_registries = true\n")
	for password, want := range map[string]string{"s3cret-word": "It works", "wr0ng-word": "refused the configured credentials"} {
		form.Set("password", password)
		w := visit(t, m.handler, "POST", addPage, form)
		body := html.UnescapeString(w.Body.String())
		if w.Code != 200 || !strings.Contains(body, want) || !strings.Contains(body, `password_file = "/etc/weir/registry.example.password"`) {
			t.Errorf("%s: %d, without %s\n%s", password, w.Code, want, body)
		}
		if strings.Contains(body, "%!") || strings.Contains(body, "--image") {
			t.Errorf("the report is not one for pages:\n%s", body)
		}
		if strings.Contains(body, password) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("the answer has the password, or may be kept: %v\n%s", w.Header(), body)
		}
	}
	form.Set("url", "http://169.254.169.254")
	if w := visit(t, m.handler, "POST", addPage, form); !strings.Contains(w.Body.String(), "it has a link-local address") {
		t.Errorf("a link-local address: %s", w.Body)
	}
}

// Whatever the form says, the block is exactly that or is refused at its field.
func TestHostileForms(t *testing.T) {
	t.Setenv("HOME", "/secret-home")
	m := newPagesMirror(t, "")
	shown := 0
	for _, text := range []string{
		`"`, `'`, `\`, "\n", "a\nb", "]", `x"]` + "\n[server]\nport = 1\n#", "${HOME}", "$$", "../", "../../etc/passwd", "/etc/shadow", "\x00", "a\x00b", "\u202e", "\xff",
		"日本語", strings.Repeat("x", 300), strings.Repeat("x", 20_000), " ", "<script>alert(1)</script>", "file:///etc/passwd", "https://user:hunter2@registry.example",
	} {
		for _, field := range []string{"key", "url", "username", "kind"} {
			// The host has no address, so that no trial sends anything.
			form := registryForm("https://registry.invalid")
			switch {
			case field == "url" && !strings.Contains(text, "://"):
				form.Set("url", "https://registry.invalid/"+text)
			default:
				form.Set(field, text)
			}
			form.Set("kind", map[bool]string{true: text, false: "mtls"}[field == "kind"])
			form.Set("action", "show") // no trial
			w := visit(t, m.handler, "POST", addPage, form)
			body := w.Body.String()
			if w.Code != 200 || strings.Contains(body, "<script>alert") || strings.Contains(body, "secret-home") || field == "url" && strings.Contains(body, "hunter2") {
				t.Errorf("%s %.40q: %d\n%s", field, text, w.Code, body)
			}
			block := shownBlock.FindStringSubmatch(body)
			if block == nil {
				if !strings.Contains(body, `role="alert"`) {
					t.Errorf("%s %.40q: no block and no problem\n%s", field, text, body)
				}
				continue
			}
			shown++
			expectBlock(t, html.UnescapeString(block[1]), form)
		}
	}
	if shown < 20 {
		t.Errorf("only %d blocks were shown", shown)
	}
	for field, text := range map[string]string{"password": "a\nb", "image": "../../x", "username": "${HOME}", "url": "http://[::1"} {
		form := registryForm("https://registry.invalid", "username", "user", "password", "password")
		form.Set(field, text)
		if w := visit(t, m.handler, "POST", addPage, form); w.Code != 200 || !strings.Contains(w.Body.String(), `id="`+field+`-problem"`) {
			t.Errorf("%s %q: %d\n%s", field, text, w.Code, w.Body)
		}
	}
	huge := registryForm("https://registry.invalid", "image", strings.Repeat("x", 400_000))
	if w := visit(t, m.handler, "POST", addPage, huge); w.Code != 400 {
		t.Errorf("a form of 400 KB: %d", w.Code)
	}
}

// expectBlock loads a block that was shown, without the lines of files that the operator has to
// write, and compares it with the form.
func expectBlock(t *testing.T, block string, form url.Values) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(block) {
		if !strings.Contains(line, `"/etc/weir/`) && !strings.HasPrefix(line, "username = ") {
			lines = append(lines, line)
		}
	}
	path := filepath.Join(t.TempDir(), "config.toml")
	write(t, path, strings.Join(lines, ""))
	cfg, err := config.Load(path)
	if err != nil {
		t.Errorf("%v in\n%s", err, block)
		return
	}
	if form.Get("kind") != "mtls" {
		return // the form of another kind has values of its own
	}
	want, err := url.Parse(strings.TrimSpace(form.Get("url")))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(form.Get("key"))
	if key == "" {
		key = want.Host
	}
	if n := cfg.Namespaces; len(n) != 1 || n[0].Key != key || len(n[0].Upstreams) != 1 || n[0].Upstreams[0].URL.String() != want.String() || cfg.Server.Port != 8000 {
		t.Errorf("%v is loaded as %+v", form, n)
	}
}

// Two trials run at once, and a further one is refused.
func TestTrialsAtOnce(t *testing.T) {
	asked, release := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-release
		_, _ = w.Write([]byte("{}")) // the trial fails without it
	}))
	t.Cleanup(server.Close)
	m := newPagesMirror(t, "[ui]\nallow_private_registries = true\n")
	answers := make(chan int, 2)
	for range 2 {
		go func() { answers <- visit(t, m.handler, "POST", addPage, registryForm(server.URL)).Code }()
		<-asked
	}
	if w := visit(t, m.handler, "POST", addPage, registryForm(server.URL)); w.Code != 409 {
		t.Errorf("a third trial: %d", w.Code)
	}
	close(release)
	for range 2 {
		if code := <-answers; code != 200 {
			t.Errorf("a trial: %d", code)
		}
	}
}
