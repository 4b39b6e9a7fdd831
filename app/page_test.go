package app

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/forwarded"
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

// The pages name the address at which clients pull, whatever is between the browser and the mirror.
func TestPagesNameTheMirror(t *testing.T) {
	proxies := forwarded.Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	for name, test := range map[string]struct {
		host, peer, proto string
		tls               bool
		server            config.Server
		want              string
	}{
		"directly":                    {host: "mirror.example:8000", peer: "192.0.2.1:1", want: "http://mirror.example:8000"},
		"over TLS":                    {host: "mirror.example", peer: "192.0.2.1:1", tls: true, want: "https://mirror.example"},
		"behind a proxy":              {host: "mirror.example", peer: "10.0.0.1:1", proto: "https", want: "https://mirror.example"},
		"behind another one":          {host: "mirror.example", peer: "192.0.2.1:1", proto: "https", want: "http://mirror.example"},
		"at an address of their own":  {host: "mirror.example:9000", peer: "192.0.2.1:1", server: config.Server{Port: 8000, AdminAddress: "0.0.0.0:9000"}, want: "http://mirror.example:8000"},
		"of IPv6":                     {host: "[2001:db8::1]:9000", peer: "192.0.2.1:1", server: config.Server{Port: 8000, AdminAddress: "[::]:9000"}, want: "http://[2001:db8::1]:8000"},
		"with a port that is unknown": {host: "localhost:9000", peer: "127.0.0.1:1", server: config.Server{AdminAddress: "127.0.0.1:9000"}, want: "http://localhost:9000"},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://"+test.host+"/clients", nil)
		r.RemoteAddr = test.peer
		if test.proto != "" {
			r.Header.Set("X-Forwarded-Proto", test.proto)
		}
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if got := pulledAt(r, proxies, test.server).String(); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
