package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestStatusClasses(t *testing.T) {
	document := `{"errors":[{"code":"NAME_INVALID","message":"no such\r\nname"}]}`
	tests := []struct {
		status   int
		body     string
		want     error
		code     string
		message  string
		requests int
	}{
		{400, document, upstream.ErrNotFound, "NAME_INVALID", "no such name", 1},
		{401, document, upstream.ErrDenied, "NAME_INVALID", "no such name", 1},
		{403, "", upstream.ErrDenied, "", "", 1},
		{404, "<html>", upstream.ErrNotFound, "", "", 1},
		{410, document, upstream.ErrNotFound, "NAME_INVALID", "no such name", 1},
		{410, "", upstream.ErrUnavailable, "", "", 1},
		{418, "short and stout", upstream.ErrUnavailable, "", "short and stout", 1},
		{429, "slow \x1b[31mdown", upstream.ErrRateLimited, "", "slow [31mdown", 1},
		{500, "", upstream.ErrUnavailable, "", "", 1},
		{502, "", upstream.ErrUnavailable, "", "", 3},
		{503, strings.Repeat("é", 1000), upstream.ErrUnavailable, "", strings.Repeat("é", 150) + "...", 3},
		{504, "", upstream.ErrUnavailable, "", "", 3},
		{204, "", upstream.ErrUnavailable, "", "", 1},
		{304, "", upstream.ErrUnavailable, "", "", 1},
	}
	for _, test := range tests {
		t.Run(http.StatusText(test.status), func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				c := newClient(t, r, on(n))
				r.Fault(upstreamtest.Any, upstreamtest.Status(test.status, test.body))
				_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				e := wantError(t, err, test.want)
				if e.Status != test.status || e.Code != test.code || e.Message != test.message || e.Timeout() {
					t.Errorf("got %#v", e)
				}
				if got := r.Requests(); len(got) != test.requests {
					t.Errorf("requests are %v, want %d", got, test.requests)
				}
			})
		})
	}
}

// TestNotFoundNeedsRegistry has refusals that look like "not found". Only a registry's
// word is one, and only one without any doubt is one about content that is cached.
func TestNotFoundNeedsRegistry(t *testing.T) {
	coded := func(code string) string { return `{"errors":[{"code":"` + code + `","message":"so it says"}]}` }
	type row struct {
		name    string
		status  int
		body    string
		want    error
		doubted error // if the content is cached
	}
	found, gone, limited := upstream.ErrUnavailable, upstream.ErrNotFound, upstream.ErrRateLimited
	rows := []row{
		{"nginx speaks TLS there", 400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>", found, found},
		{"a server of Go speaks TLS there", 400, "Client sent an HTTP request to an HTTPS server.\n", found, found},
		{"headers too large", 400, "<html>400 Request Header Or Cookie Too Large</html>", found, found},
		{"a page of a CDN", 400, "<!DOCTYPE html><title>Direct IP access not allowed</title>", found, found},
		{"nothing", 400, "", found, found},
		{"JSON of another kind", 400, `{"message":"bad request"}`, found, found},
		{"another complaint", 400, coded("UNSUPPORTED"), found, found},
		{"a wrong page", 400, coded("PAGINATION_NUMBER_INVALID"), found, found},
		{"a limit", 400, coded("TOOMANYREQUESTS"), limited, limited},
		{"a limit", 403, coded("TOOMANYREQUESTS"), limited, limited},
		{"a limit", 404, coded("TOOMANYREQUESTS"), limited, limited},
		{"nothing", 410, "", found, found},
		{"a page", 410, "<html>410 Gone</html>", found, found},
		{"another complaint", 410, coded("DENIED"), found, found},
		{"an ingress", 404, "default backend - 404", gone, found},
		{"a router of Go", 404, "404 page not found\n", gone, found},
		{"a page", 404, "\n<html>404 Not Found</html>", gone, found},
		{"a gateway", 404, `{"message":"no Route matched with those values"}`, gone, found},
		{"an empty document", 404, `{"errors":[]}`, gone, found},
		{"a document that is cut off", 404, `{"errors":[{"code":"MANIFEST_UNKNOWN"`, gone, found},
		{"another complaint", 404, coded("UNSUPPORTED"), gone, found},
		{"a refusal", 404, coded("UNAUTHORIZED"), gone, found},
		{"a fault", 404, coded("UNAVAILABLE"), gone, found},
		{"an unknown fault", 404, coded("UNKNOWN"), gone, found},
		{"null", 404, `null`, gone, found},
		{"a list", 404, `[]`, gone, found},
		{"a single error", 404, `{"errors":{"code":"MANIFEST_UNKNOWN"}}`, gone, found},
		{"a compressed page", 404, "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xcaH", gone, found},
		{"XML", 404, `<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>`, gone, found},
		{"a page without end", 404, "<html>" + strings.Repeat("x", 100<<10), gone, found},
		{"a code in small letters", 404, coded("manifest_unknown"), gone, gone},
		{"a code in small letters", 400, coded("manifest_unknown"), gone, gone},
		{"a code after another error", 400, `{"errors":[{"message":"x"},{"code":"NAME_UNKNOWN"}]}`, gone, gone},
		{"a limit in small letters", 400, coded("toomanyrequests"), limited, limited},
		{"a limit of a proxy", 503, coded("TOOMANYREQUESTS"), limited, limited},
		{"a fault with a code", 500, coded("MANIFEST_UNKNOWN"), found, found},
		{"nothing", 404, "", gone, gone},
		{"blanks", 404, "\r\n", gone, gone},
		{"Harbor", 404, coded("NOT_FOUND"), gone, gone},
		{"Artifactory", 404, `{"errors":[{"status":404,"message":"File not found."}]}`, gone, gone},
	}
	for _, code := range []string{"NAME_UNKNOWN", "NAME_INVALID", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "TAG_INVALID", "DIGEST_INVALID"} {
		for _, status := range []int{400, 404, 410} {
			rows = append(rows, row{code, status, coded(code), gone, gone})
		}
	}
	for _, row := range rows {
		t.Run(fmt.Sprintf("%d %s", row.status, row.name), func(t *testing.T) {
			r := upstreamtest.New(t)
			r.Fault(upstreamtest.Any, upstreamtest.Status(row.status, row.body))
			ask := map[string]func(*upstream.Client) error{
				"manifest": func(c *upstream.Client) error {
					_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
					return err
				},
				"head": func(c *upstream.Client) error {
					_, err := c.Head(t.Context(), "repo", oci.ByTag("latest"))
					return err
				},
				"tags": func(c *upstream.Client) error {
					_, err := c.Tags(t.Context(), "repo", nil)
					return err
				},
			}
			for name, ask := range ask {
				err := ask(newClient(t, r))
				wantError(t, err, row.want)
				if doubted := upstream.Doubt(err); !errors.Is(doubted, row.doubted) {
					t.Errorf("%s: with doubt it is %v, want %v", name, doubted, row.doubted)
				}
			}
		})
	}
}

// The type that a header claims for an error decides nothing: its body does.
func TestNotFoundByBody(t *testing.T) {
	document, page := `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, "<html>404</html>"
	for _, test := range []struct {
		body, contentType string
		want              error
		effects           []upstreamtest.Effect
	}{
		{document, "text/html; charset=utf-8", upstream.ErrNotFound, nil},
		{document, "", upstream.ErrNotFound, nil},
		{document, "application/json", upstream.ErrNotFound, []upstreamtest.Effect{upstreamtest.Chunked()}},
		{page, "application/json", upstream.ErrUnavailable, nil},
		{page, "application/vnd.oci.image.manifest.v1+json", upstream.ErrUnavailable, []upstreamtest.Effect{upstreamtest.Chunked()}},
		{document[:20], "application/json", upstream.ErrUnavailable, []upstreamtest.Effect{upstreamtest.Header("Content-Length", "500")}},
		{"", "application/json", upstream.ErrUnavailable, []upstreamtest.Effect{upstreamtest.Header("Content-Length", "500")}},
	} {
		r := upstreamtest.New(t)
		r.Fault(upstreamtest.Any, append(test.effects, upstreamtest.Status(404, test.body), upstreamtest.Header("Content-Type", test.contentType))...)
		_, err := newClient(t, r).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrNotFound)
		if doubted := upstream.Doubt(err); !errors.Is(doubted, test.want) {
			t.Errorf("%s as %q: %v, want %v", test.body, test.contentType, doubted, test.want)
		}
	}
}

// A chain's "not found" is in doubt if that of one member is.
func TestDoubtOfChain(t *testing.T) {
	for _, bodies := range [][]string{{"", ""}, {"<html>", ""}, {"", "<html>"}} {
		var members []upstream.Member
		for _, body := range bodies {
			r := upstreamtest.New(t)
			r.Fault(upstreamtest.Any, upstreamtest.Status(404, body))
			members = append(members, newClient(t, r))
		}
		_, err := upstream.NewChain(upstream.ChainOptions{}, members...).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrNotFound)
		if got, want := upstream.ClassOf(upstream.Doubt(err)) == upstream.ClassUnavailable, slices.Contains(bodies, "<html>"); got != want {
			t.Errorf("%q: in doubt is %t", bodies, got)
		}
	}
}

func TestRetrySucceeds(t *testing.T) {
	for name, effect := range map[string]upstreamtest.Effect{
		"reset": upstreamtest.Drop(), "503": upstreamtest.Status(503, ""),
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("layer"))
				r.Fault(upstreamtest.Manifests, effect).Times(2)
				must[*oci.Manifest](t)(newClient(t, r, on(n)).Manifest(t.Context(), "repo", oci.ByTag("latest")))
			})
		})
	}
}

func TestHeaderTimeout(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(upstreamtest.NewGate()))
		start := time.Now()
		_, err := newClient(t, r, on(n)).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if e := wantError(t, err, upstream.ErrUnavailable); !e.Timeout() || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestRateLimitCoolsDown(t *testing.T) {
	tests := map[string]struct {
		retryAfter string
		want       time.Duration
	}{
		"seconds":  {"7", 7 * time.Second},
		"date":     {time.Date(2000, 1, 1, 0, 1, 40, 0, time.UTC).Format(http.TimeFormat), 100 * time.Second}, // the bubble begins in 2000
		"unix":     {"946684900", 100 * time.Second},
		"fraction": {"2.5", 2500 * time.Millisecond},
		"unit":     {"5s", 5 * time.Second},
		"none":     {"", time.Minute},
		"nonsense": {"soon", time.Minute},
		"too long": {"999999999999", 15 * time.Minute},
		"past":     {"0", time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("layer"))
				c := newClient(t, r, on(n))
				r.Fault(upstreamtest.Manifests, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", test.retryAfter)).Times(1)
				_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				if e := wantError(t, err, upstream.ErrRateLimited); e.RetryAfter != test.want {
					t.Errorf("RetryAfter is %v, want %v", e.RetryAfter, test.want)
				}
				time.Sleep(test.want - time.Second/2) // of the bubble's time
				_, err = c.Head(t.Context(), "repo", oci.ByTag("other"))
				if e := wantError(t, err, upstream.ErrRateLimited); e.RetryAfter != time.Second/2 || len(r.Requests()) != 1 {
					t.Errorf("got %v after %v", err, r.Requests())
				}
				time.Sleep(time.Second / 2)
				must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
			})
		})
	}
}

func TestCircuitBreaker(t *testing.T) {
	for _, hang := range []bool{false, true} {
		inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
			const addr = "registry.test:80"
			r := upstreamtest.New(t, upstreamtest.WithNetwork(n, addr))
			r.AddImage("repo", "latest", []byte("layer"))
			c := newClient(t, r, on(n))
			r.Close()
			n.Hang(addr, hang)
			ask := func() {
				t.Helper()
				_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				if e := wantError(t, err, upstream.ErrUnavailable); e.Timeout() != hang {
					t.Errorf("Timeout() is %v for %v", e.Timeout(), err)
				}
			}
			dials := 0
			wantDials := func(more int) {
				t.Helper()
				if dials += more; n.Dials(addr) != dials {
					t.Fatalf("%d connects, want %d", n.Dials(addr), dials)
				}
			}
			for range 3 {
				ask()
			}
			wantDials(3)
			for _, pause := range []time.Duration{10, 20, 40, 60, 60} {
				time.Sleep(pause*time.Second - 1)
				ask()
				wantDials(0)
				time.Sleep(time.Nanosecond)
				for range 5 { // one of which probes
					go c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				}
				if hang {
					time.Sleep(2 * time.Second) // the connect timeout
				}
				synctest.Wait()
				wantDials(1)
			}
			n.Hang(addr, false)
			r.Reopen()
			time.Sleep(time.Minute)
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
			r.Close()
			for range 2 { // the count began again
				_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				wantError(t, err, upstream.ErrUnavailable)
			}
			r.Reopen()
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		})
	}
}

func TestRedirects(t *testing.T) {
	tests := map[string]struct {
		locations []string // by request
		want      string   // in the error
	}{
		"loop":         {[]string{"/v2/repo/manifests/b", "/v2/repo/manifests/a"}, "redirect loop"},
		"too many":     {[]string{"/1", "/2", "/3", "/4"}, "too many redirects: more than 3"},
		"downgrade":    {[]string{"http://elsewhere.test/x"}, "redirect from https to http refused"},
		"other scheme": {[]string{"ftp://elsewhere.test/x"}, "something other than http"},
		"no Location":  {[]string{""}, "without a usable Location"},
		"bad Location": {[]string{"http://[secret"}, "without a usable Location"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, upstreamtest.WithTLS())
			c := newClient(t, r, func(o *upstream.Options) { o.RootCAs, o.MaxRedirects = r.RootCAs(), 3 })
			for i, location := range test.locations {
				path := "/v2/repo/manifests/a"
				if i > 0 {
					path = test.locations[i-1]
				}
				exact := func(req *http.Request) bool { return req.URL.Path == path }
				r.Fault(exact, upstreamtest.Status(http.StatusFound, ""), upstreamtest.Header("Location", location))
			}
			_, err := c.Manifest(t.Context(), "repo", oci.ByTag("a"))
			if wantError(t, err, upstream.ErrUnavailable); !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if got := r.Requests(); len(got) != len(test.locations) {
				t.Errorf("requests are %v", got)
			}
		})
	}
}

func TestBadRequestElsewhereIsNotNotFound(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}))
	dgst := r.AddBlob("repo", []byte("layer"))
	r.Fault(upstreamtest.CDNBlobs, upstreamtest.Status(400, "<Error/>"))
	_, err := alone(newClient(t, r)).Blob(t.Context(), "repo", dgst, 0, -1)
	wantError(t, err, upstream.ErrUnavailable)
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "other"}))
	r.Close()
	r.CloseToken()
	for range 2 {
		c := newClient(t, r, func(o *upstream.Options) {
			o.Username, o.Password = "user", "hunter2"
			o.Proxy, _ = url.Parse("http://proxyuser:proxysecret@" + r.Host)
		})
		_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "proxysecret") {
			t.Errorf("a secret in %v", err)
		}
		r.Reopen()
	}
}

func TestRateLimitIsLoggedOnce(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("repo", "latest", []byte("layer"))
	var log bytes.Buffer
	c := newClient(t, r, func(o *upstream.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, step := range []struct {
		remaining string
		lines     int
	}{{"10", 0}, {"9", 1}, {"8", 1}, {"100", 1}, {"9", 2}, {"nonsense", 2}} {
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", step.remaining+";w=21600")).Times(1)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		if got := strings.Count(log.String(), "\n"); got != step.lines {
			t.Errorf("%d lines at %s: %s", got, step.remaining, &log)
		}
	}
}

// A CDN that is down says nothing about the registry before it.
func TestBreakerIsTheOriginsOwn(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}))
	r.AddImage("repo", "latest", []byte("layer"))
	dgst := r.AddBlob("repo", blob)
	c := newClient(t, r)
	r.CloseCDN()
	for range 5 {
		_, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
		wantError(t, err, upstream.ErrUnavailable)
	}
	must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
}

// A client that went away says nothing about the registry either.
func TestClientsGoneDoNotOpenTheBreaker(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.AddImage("repo", "latest", []byte("layer"))
		c := newClient(t, r, on(n))
		n.Hang("registry.test:80", true)
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Manifest(ctx, "repo", oci.ByTag("latest")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, upstream.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			cancel()
		}
		n.Hang("registry.test:80", false)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
	})
}

// A fault whose end the registry tells is passed on with that end, and not tried
// again at once.
func TestFaultWithRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		effects  []upstreamtest.Effect
		want     time.Duration
		requests int
	}{
		"503":                 {[]upstreamtest.Effect{upstreamtest.Status(503, "")}, 0, 3},
		"503 with seconds":    {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "30")}, 30 * time.Second, 1},
		"503 with a fraction": {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "1.5")}, 1500 * time.Millisecond, 1},
		"503 with X-":         {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("X-Retry-After", "30")}, 30 * time.Second, 1},
		"503 with a date": {
			[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "Sat, 01 Jan 2000 00:01:40 GMT")}, 100 * time.Second, 1,
		},
		"503 with nonsense": {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "soon")}, 0, 3},
		"502 with seconds":  {[]upstreamtest.Effect{upstreamtest.Status(502, ""), upstreamtest.Header("Retry-After", "99999")}, 15 * time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("layer"))
				c := newClient(t, r, on(n))
				fault := r.Fault(upstreamtest.Manifests, test.effects...)
				_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				if e := wantError(t, err, upstream.ErrUnavailable); e.RetryAfter != test.want {
					t.Errorf("RetryAfter is %v, want %v", e.RetryAfter, test.want)
				}
				if got := r.Requests(); len(got) != test.requests {
					t.Errorf("requests are %q, want %d", got, test.requests)
				}
				fault.Remove() // and the registry does not cool down
				must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
			})
		})
	}
}

// An upstream may be another mirror until an answer says otherwise. Only the last
// answer counts, and a failure without one changes nothing.
func TestMayBeMirror(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("repo", "latest", []byte("layer"))
	c := newClient(t, r)
	ask := func(want bool, when string) {
		t.Helper()
		c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if got := c.MayBeMirror(); got != want {
			t.Errorf("%s: %v", when, got)
		}
	}
	if !c.MayBeMirror() {
		t.Error("nothing is known at the start")
	}
	drop := r.Fault(upstreamtest.Any, upstreamtest.Drop())
	ask(true, "without an answer")
	drop.Remove()
	ask(false, "a registry")
	mirror := r.Fault(upstreamtest.Any, upstreamtest.Header("Via", "1.1 weir-a1, 1.1 nginx"))
	ask(true, "a mirror")
	missing := r.Fault(upstreamtest.Any, upstreamtest.Status(404, ""))
	ask(true, "a mirror's refusal")
	mirror.Remove()
	ask(false, "a registry's refusal")
	missing.Remove()
	r.Fault(upstreamtest.Any, upstreamtest.Header("Via", "1.1 varnish"))
	ask(false, "a registry behind a proxy")
}

// The redirect of a registry may lead to a mirror.
func TestRedirectToAMirror(t *testing.T) {
	second := upstreamtest.New(t)
	first := upstreamtest.New(t, upstreamtest.WithRedirect(second))
	second.AddImage("repo", "latest", []byte("layer"))
	c := newClient(t, first)
	for _, via := range []string{"1.1 weir-a1", ""} {
		f := second.Fault(upstreamtest.Any, upstreamtest.Header("Via", via))
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		if got := c.MayBeMirror(); got != (via != "") {
			t.Errorf("Via %q: %v", via, got)
		}
		f.Remove()
	}
}
