package app

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// newPagesMirror returns a mirror with one block and an upstream that has one image.
func newPagesMirror(t *testing.T, more string) *mirror {
	t.Helper()
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"<b>","digest":"sha256:` + strings.Repeat("a", 64) + `","size":2},"layers":[{"mediaType":"<script>alert(1)</script>\u202e","digest":"sha256:` + strings.Repeat("b", 64) + `","size":9}]}`
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/app/manifests/") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte(manifest)) // the mirror's test fails without it
	}))
	t.Cleanup(up.Close)
	cfg, _ := loadText(t, more+"[repository.up]\nprefetch = false\n[[repository.up.upstream]]\nurl = \""+up.URL+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

// visit sends a request of a browser on the mirror's own machine.
func visit(t *testing.T, h http.Handler, method, path string, form url.Values, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost:8000"+path, strings.NewReader(form.Encode()))
	r.RemoteAddr = "127.0.0.1:5000"
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Without rules, only a client on the mirror's machine changes anything: not one elsewhere, and not one
// that a proxy on the machine, or a name that leads to it, hides.
func TestChangesComeFromThisMachine(t *testing.T) {
	m := newPagesMirror(t, "")
	visit(t, m.handler, "GET", "/v2/up/app/manifests/v1", nil)
	change := func(alter func(r *http.Request)) int {
		form := url.Values{"image": {"up/app:v1"}}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost:8000/refresh", strings.NewReader(form.Encode()))
		r.RemoteAddr = "127.0.0.1:5000"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		alter(r)
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, r)
		return w.Code
	}
	for name, alter := range map[string]func(*http.Request){
		"localhost":      func(*http.Request) {},
		"its IPv4":       func(r *http.Request) { r.Host = "127.0.0.1" },
		"its IPv6":       func(r *http.Request) { r.Host, r.RemoteAddr = "[::1]:8000", "[::1]:5000" },
		"IPv4 in IPv6":   func(r *http.Request) { r.RemoteAddr = "[::ffff:127.0.0.1]:5000" },
		"HTTP/2":         func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0 },
		"a usual header": func(r *http.Request) { r.Header.Set("X-Request-Id", "1") },
	} {
		if code := change(alter); code != http.StatusSeeOther {
			t.Errorf("%s: %d", name, code)
		}
	}
	refused := map[string]func(*http.Request){
		"elsewhere":      func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" },
		"another name":   func(r *http.Request) { r.Host = "mirror.example.com" },
		"a name like it": func(r *http.Request) { r.Host = "localhost.example.com" },
		"HTTP/1.0":       func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0 },
	}
	for _, header := range []string{
		"Cf-Connecting-Ip", "Forwarded", "True-Client-IP", "Via", "X-Client-IP", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port",
		"X-Forwarded-Proto", "X-Forwarded-Server", "X-Original-Forwarded-For", "X-Original-URI", "X-Real-IP",
	} {
		refused[header] = func(r *http.Request) { r.Header.Set(header, "127.0.0.1") }
	}
	for name, alter := range refused {
		if code := change(alter); code != http.StatusForbidden {
			t.Errorf("%s: %d", name, code)
		}
	}
}

// Each page says its subject, runs nothing but its script, and shows a stranger's text as text.
func TestPages(t *testing.T) {
	m := newPagesMirror(t, "[ui]\nname = \"<Mirror>\"\n")
	if w := visit(t, m.handler, "GET", "/", nil); w.Code != 200 || !strings.Contains(w.Body.String(), "Nothing is cached yet") {
		t.Errorf("the first page: %d %s", w.Code, w.Body)
	}
	for path, want := range map[string]string{"/activity": "There are no requests yet.", "/activity?client=alice": "No request matches."} {
		if w := visit(t, m.handler, "GET", path, nil); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s without requests: %d, without %q: %s", path, w.Code, want, w.Body)
		}
	}
	w := visit(t, m.handler, "GET", "/v2/up/app/manifests/v1", nil)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	byDigest := w.Header().Get("Docker-Content-Digest")
	for _, reference := range []string{byDigest, "sha256:0", "v0"} {
		visit(t, m.handler, "GET", "/v2/up/app/manifests/"+reference, nil)
	}
	if w := visit(t, m.handler, "GET", "/activity", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `data-copy="`+byDigest+`"`) {
		t.Errorf("the activity: %d %s", w.Code, w.Body)
	}
	for path, want := range map[string]string{
		"/": "up/app", "/repositories": "up/app", "/repositories?q=none": "No cached repository matches", "/repositories?sort=colour": "must be name",
		"/repository?name=up%2Fapp": "v1", "/image?name=up%2Fapp&tag=v1": "&lt;script&gt;alert(1)", "/upstreams": "Check now",
		"/clients": "registry-mirrors", "/clients?client=containerd": "hosts.toml", "/clients?client=none": "unknown client", "/clients?url=x": "must be a URL",
		"/configuration": "[ui]", "/pins": "No image is pinned", "/activity": "up/app", "/activity?cache=stale": "No request matches.", "/activity?status=abc": "must be a status",
	} {
		w := visit(t, m.handler, "GET", path, nil)
		body := w.Body.String()
		if w.Code != 200 || !strings.Contains(strings.ToLower(body), strings.ToLower(want)) {
			t.Errorf("%s: %d, without %s:\n%s", path, w.Code, want, body)
		}
		if !strings.Contains(body, "&lt;Mirror&gt;</title>") || strings.Contains(body, "<script>") || strings.Contains(body, " style=") || strings.Contains(body, " onclick=") {
			t.Errorf("%s has markup of a stranger:\n%s", path, body)
		}
		policy := w.Header().Get("Content-Security-Policy")
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, rule) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: the policy is %q", path, policy)
			}
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
	for path, want := range map[string]int{
		"/repository?name=up%2Fnone": 404, "/repository": 404, "/image?name=up%2Fapp&tag=v9": 404, "/image?name=up%2Fapp&tag=%3Cb%3E": 400, "/image?name=up%2Fapp": 400,
		"/assets/weir.css": 200, "/assets/weir.js": 200, "/assets/weir.svg": 200, "/assets/../pages.go": 404, "/assets/": 404, "/favicon.ico": 404, "/refresh": 405,
	} {
		if w := visit(t, m.handler, "GET", path, nil); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

// A form changes what it says, for senders on the mirror's own machine, and leads back to a page.
func TestFormsOfPages(t *testing.T) {
	m := newPagesMirror(t, "")
	visit(t, m.handler, "GET", "/v2/up/app/manifests/v1", nil)
	image := url.Values{"image": {"up/app:v1"}}
	for _, path := range []string{"/refresh", "/remove", "/pin", "/unpin", "/warm", "/cancel", "/upstreams"} {
		if w := visit(t, m.handler, "POST", path, image, "Sec-Fetch-Site", "cross-site"); w.Code != 403 {
			t.Errorf("%s from another site: %d", path, w.Code)
		}
		if w := visit(t, m.handler, "POST", path, image, "X-Forwarded-For", "192.0.2.1"); w.Code != 403 {
			t.Errorf("%s from another machine: %d", path, w.Code)
		}
	}
	const page = "/image?name=up%2Fapp&tag=v1"
	if w := visit(t, m.handler, "GET", page, nil, "X-Forwarded-For", "192.0.2.1"); w.Code != 200 || strings.Contains(w.Body.String(), "<form method=\"post\"") {
		t.Errorf("a client that may change nothing has buttons: %d %s", w.Code, w.Body)
	}
	if w := visit(t, m.handler, "POST", "/refresh", image); w.Code != 303 || w.Header().Get("Location") != "/image?done=unchanged&name=up%2Fapp&tag=v1" {
		t.Errorf("refresh: %d %v", w.Code, w.Header())
	}
	if w := visit(t, m.handler, "GET", page+"&done=unchanged", nil); !strings.Contains(w.Body.String(), "has the same image") {
		t.Errorf("the notice is missing:\n%s", w.Body)
	}
	if w := visit(t, m.handler, "POST", "/pin", image); w.Code != 303 || w.Header().Get("Location") != "/image?done=pinned&name=up%2Fapp&tag=v1" {
		t.Errorf("pin: %d %v", w.Code, w.Header())
	}
	if w := visit(t, m.handler, "GET", page, nil); !strings.Contains(w.Body.String(), `action="/unpin"`) || strings.Contains(w.Body.String(), `action="/remove"`) {
		t.Errorf("the page of a pinned image:\n%s", w.Body)
	}
	if w := visit(t, m.handler, "GET", "/pins", nil); !strings.Contains(w.Body.String(), "/image?name=up%2Fapp&amp;tag=v1") {
		t.Errorf("the pins:\n%s", w.Body)
	}
	if w := visit(t, m.handler, "POST", "/remove", image); w.Code != 409 {
		t.Errorf("the removal of a pinned image: %d", w.Code)
	}
	if w := visit(t, m.handler, "POST", "/unpin", image); w.Code != 303 || w.Header().Get("Location") != "/pins?done=unpinned" {
		t.Errorf("unpin: %d %v", w.Code, w.Header())
	}
	if w := visit(t, m.handler, "POST", "/remove", image); w.Code != 303 || !strings.Contains(w.Header().Get("Location"), "done=removed") {
		t.Errorf("remove: %d %v", w.Code, w.Header())
	}
	if w := visit(t, m.handler, "GET", page, nil); w.Code != 404 {
		t.Errorf("the removed tag: %d", w.Code)
	}
	if w := visit(t, m.handler, "POST", "/upstreams", nil); w.Code != 303 {
		t.Errorf("check: %d %s", w.Code, w.Body)
	}
	if w := visit(t, m.handler, "GET", "/upstreams", nil); !strings.Contains(w.Body.String(), "✓ ok") && !strings.Contains(w.Body.String(), "✗ failed") {
		t.Errorf("the report of the check is missing:\n%s", w.Body)
	}
}

// The page of an image starts a job, and the page of the activity shows it with its end.
func TestPagesWarm(t *testing.T) {
	m := newPagesMirror(t, "")
	image := url.Values{"image": {"up/app:v1"}}
	if w := visit(t, m.handler, "POST", "/warm", url.Values{"image": {"up/app:v1"}, "platform": {"linux"}}); w.Code != 400 {
		t.Errorf("no platform: %d", w.Code)
	}
	w := visit(t, m.handler, "POST", "/warm", image)
	if w.Code != 303 || w.Header().Get("Location") != "/activity?done=warming" {
		t.Fatalf("warm: %d %v %s", w.Code, w.Header(), w.Body)
	}
	for range 1000 { // the blobs of the image are not there
		if jobs := m.warmings.Jobs(); !jobs[0].Ended.IsZero() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	body := visit(t, m.handler, "GET", "/activity?done=warming", nil).Body.String()
	for _, want := range []string{"A job brings the image into the cache", "/image?name=up%2Fapp&amp;tag=v1", "✗ failed", "up/app:v1: ", "<h2>Jobs</h2>"} {
		if !strings.Contains(body, want) {
			t.Errorf("without %q:\n%s", want, body)
		}
	}
	id := m.warmings.Jobs()[0].ID
	if w := visit(t, m.handler, "POST", "/cancel", url.Values{"job": {id}}); w.Code != 303 || w.Header().Get("Location") != "/activity?done=cancelled" {
		t.Errorf("cancel: %d %v", w.Code, w.Header())
	}
	if w := visit(t, m.handler, "POST", "/cancel", url.Values{"job": {"none"}}); w.Code != 404 {
		t.Errorf("cancel no job: %d", w.Code)
	}
	if body := visit(t, m.handler, "GET", "/image?name=up%2Fapp&tag=v1", nil).Body.String(); !strings.Contains(body, `action="/warm"`) {
		t.Errorf("no button:\n%s", body)
	}
	if body := visit(t, m.handler, "GET", "/", nil).Body.String(); strings.Contains(body, "<h2>Jobs</h2>") || !strings.Contains(body, "<h2>Blocks</h2>") {
		t.Errorf("the overview:\n%s", body)
	}
}

// A page that is followed sends its live parts, and does not keep the mirror from ending.
func TestPagesAreFollowed(t *testing.T) {
	m := newPagesMirror(t, "")
	server := httptest.NewServer(m.handler)
	defer server.Close()
	for path, ids := range map[string][]string{
		"/": {"state", "downloads", "jobs", "traffic", "upstreams", "store", "blocks"}, "/activity": {"jobs", "top", "requests"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/event-stream")
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" || answer.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%s: %d %v", path, answer.StatusCode, answer.Header)
		}
		lines := bufio.NewScanner(answer.Body)
		for len(ids) > 0 && lines.Scan() {
			ids = slices.DeleteFunc(ids, func(id string) bool { return strings.HasPrefix(lines.Text(), `data: {"id":"`+id+`",`) })
		}
		if len(ids) > 0 {
			t.Errorf("%s: the stream ended without %q", path, ids)
		}
	}
	if err := m.drain(server.Config, 30*time.Second); err != nil {
		t.Error(err)
	}
	if w := visit(t, m.handler, "GET", "/", nil, "Accept", "text/event-stream"); w.Code != 200 || strings.Contains(w.Body.String(), "part") {
		t.Errorf("after the end: %d %s", w.Code, w.Body)
	}
}

// The rules of the API are those of the pages, and no button is for anonymous clients.
func TestPagesFollowRulesOfTheAPI(t *testing.T) {
	m := newPagesMirror(t, "[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-api'\"]\n")
	for _, path := range []string{"/", "/repositories", "/configuration", "/assets/weir.css"} {
		if w := visit(t, m.handler, "GET", path, nil); w.Code != 401 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := visit(t, m.handler, "GET", "/", nil, "Accept", "*/*"); w.Code != 200 {
		t.Errorf("the text at /: %d", w.Code)
	}
}

// Pages that are turned off leave a text at /.
func TestPagesTurnedOff(t *testing.T) {
	m := newPagesMirror(t, "[ui]\nenabled = false\n")
	if w := visit(t, m.handler, "GET", "/", nil); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("/: %d %v", w.Code, w.Header())
	}
	for _, path := range []string{"/repositories", "/assets/weir.css", "/configuration"} {
		if w := visit(t, m.handler, "GET", path, nil); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
