package app

import (
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// A browser gets HTML, and every other client plain text.
func TestPageKinds(t *testing.T) {
	h := mount(nil, newOps(new(error), new(testutil.LogBuffer)).handler())
	for accept, kind := range map[string]string{
		"": "plain", "*/*": "plain", "application/json": "plain", "text/*": "plain", "text/plain, text/html;q=0": "plain", "garbage;;": "plain",
		"text/html": "html", "TEXT/HTML;level=1": "html",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "html",
		"application/json, text/html;q=0.1":                               "html",
	} {
		w := get(t, h, "/", "Accept", accept)
		if got := w.Header().Get("Content-Type"); w.Code != 200 || got != "text/"+kind+"; charset=utf-8" || w.Header().Get("Vary") != "Accept" {
			t.Errorf("%q: %d, %s, want %s", accept, w.Code, got, kind)
		}
		for _, want := range []string{"pull-through mirror", "docker.io/", "ghcr.io/acme/", "weir client-config", "/readyz", "/metrics"} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%q: the page lacks %s:\n%s", accept, want, w.Body)
			}
		}
		version, revision := Version()
		for _, secret := range []string{version, revision} {
			if len(secret) > 3 && strings.Contains(w.Body.String(), secret) {
				t.Errorf("%q: the page states %s", accept, secret)
			}
		}
	}
}

// The page runs nothing, loads nothing and is in no frame. Its style is the one that
// its policy allows.
func TestPageIsStatic(t *testing.T) {
	h := mount(nil, newOps(new(error), new(testutil.LogBuffer)).handler())
	w := get(t, h, "/", "Accept", "text/html")
	body := w.Body.String()
	for _, forbidden := range []string{"<script", "src=", "<link", "<img", "@import", "url(", " style=", " onload="} {
		if strings.Contains(body, forbidden) {
			t.Errorf("the page has %s:\n%s", forbidden, body)
		}
	}
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)
	if style == nil || style[1] != pageStyle || !strings.Contains(style[1], "light dark") {
		t.Errorf("its style is %q, which its policy forbids", style)
	}
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("its policy is %q, without %s", policy, want)
		}
	}
	if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%v", w.Header())
	}
}

// However many names there are, the page stays short. It escapes them.
func TestPageStaysShort(t *testing.T) {
	many := make([]string, 500)
	for i := range many {
		many[i] = fmt.Sprintf("registry-%03d.example.com", i)
	}
	long := make([]string, 20)
	short := make([]string, 1000)
	for i := range long {
		long[i] = strings.Repeat("a", 250) + string(rune('a'+i))
	}
	for i := range short {
		short[i] = fmt.Sprint(i)
	}
	for name, c := range map[string]struct {
		keys          []string
		want, without string
	}{
		"none":    {nil, "client-config", "begin with"},
		"one":     {[]string{"docker.io"}, "<code>docker.io/</code>", "more</li>"},
		"sorted":  {[]string{"quay.io", "docker.io"}, "<li><code>docker.io/</code></li>\n<li><code>quay.io/</code>", "more</li>"},
		"many":    {many, "and 448 more", "registry-400"},
		"long":    {long, "and 11 more", strings.Repeat("a", 250) + "j"},
		"tiny":    {short, "more</li>", "<code>999/"},
		"markup":  {[]string{"<b>&\"'"}, "&lt;b&gt;", "<b>"},
		"unicode": {[]string{"ä"}, "ä/", "more</li>"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Header.Set("Accept", "text/html")
		newPage(func() []string { return c.keys }).ServeHTTP(w, r)
		if body := w.Body.String(); len(body) > 4096 || !strings.Contains(body, c.want) || strings.Contains(body, c.without) {
			t.Errorf("%s: %d bytes, want %s and not %s:\n%s", name, len(body), c.want, c.without, body)
		}
	}
}

// The page is at one path, and can only be read. Other paths are quiet 404s.
func TestPagePaths(t *testing.T) {
	log := new(testutil.LogBuffer)
	h := mount(nil, newOps(new(error), log).handler())
	for request, code := range map[string]int{
		"GET /": 200, "HEAD /": 200, "GET /?utm_source=x": 200,
		"POST /": 405, "PUT /": 405, "DELETE /": 405, "OPTIONS /": 405,
		"GET /favicon.ico": 404, "GET /robots.txt": 404, "GET /index.html": 404, "GET //": 404, "GET /.env": 404, "GET /login": 404, "POST /index.php": 404,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		if w.Code != code || (w.Header().Get("Allow") == "GET, HEAD") != (code == 405) {
			t.Errorf("%s: %d, %v; want %d", request, w.Code, w.Header(), code)
		}
	}
	if strings.Contains(log.String(), `"level":"INFO"`) || strings.Contains(log.String(), `"level":"WARN"`) {
		t.Errorf("requests of browsers and scanners are logged:\n%s", log)
	}
}
