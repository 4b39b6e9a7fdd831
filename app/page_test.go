package app

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// The text states no version, and who may read it finds the way to a client and to the probes.
func TestText(t *testing.T) {
	h := mount(nil, newOps(new(error), new(testutil.LogBuffer)).handler())
	w := get(t, h, "/", "Accept", "*/*")
	if got := w.Header().Get("Content-Type"); w.Code != 200 || got != "text/plain; charset=utf-8" || w.Header().Get("Vary") != "Accept" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
	for _, want := range []string{"pull-through mirror", "docker.io/", "ghcr.io/acme/", "weir client-config", "/readyz", "/metrics"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the text lacks %s:\n%s", want, w.Body)
		}
	}
	version, revision := Version()
	for _, secret := range []string{version, revision} {
		if len(secret) > 3 && strings.Contains(w.Body.String(), secret) {
			t.Errorf("the text states %s", secret)
		}
	}
}

// Browsers say that they take HTML. A wildcard alone is that of curl.
func TestBrowsersAcceptHTML(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "text/*": false, "text/plain, text/html;q=0": false, "garbage;;": false,
		"text/html": true, "TEXT/HTML;level=1": true,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true,
		"application/json, text/html;q=0.1":                               true,
	} {
		if got := acceptsHTML([]string{accept}); got != want {
			t.Errorf("%q: %t", accept, got)
		}
	}
}

// However many names there are, the text stays short.
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
		"one":     {[]string{"docker.io"}, "  docker.io/\n", " more"},
		"sorted":  {[]string{"quay.io", "docker.io"}, "  docker.io/\n  quay.io/\n", " more"},
		"many":    {many, "and 411 more", "registry-400"},
		"long":    {long, "and 11 more", strings.Repeat("a", 250) + "j"},
		"tiny":    {short, " more", "  999/"},
		"unicode": {[]string{"ä"}, "ä/", " more"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
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
