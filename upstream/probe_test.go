package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// expectReport checks a report but for its latency, and the class of its error.
func expectReport(t *testing.T, got, want upstream.Report, class upstream.Class) {
	t.Helper()
	if ended := got.Err; class == upstream.ClassOK && ended != nil || class != upstream.ClassOK && (ended == nil || ended.Class != class) {
		t.Errorf("it ended with %v, want class %s", ended, class)
	}
	if got.Reached != want.Reached || got.Challenge != want.Challenge || got.Accepted != want.Accepted ||
		got.Head != want.Head || got.Range != want.Range || got.Skew != want.Skew || !slices.Equal(got.Redirects, want.Redirects) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if (got.RateLimit == nil) != (want.RateLimit == nil) || got.RateLimit != nil && *got.RateLimit != *want.RateLimit {
		t.Errorf("the rate limit is %+v, want %+v", got.RateLimit, want.RateLimit)
	}
}

// TestProbe has one registry of each kind, with the exact requests to it.
func TestProbe(t *testing.T) {
	limited := upstreamtest.Header("RateLimit-Limit", "100;w=21600")
	left := upstreamtest.Header("RateLimit-Remaining", "98;w=21600")
	byTag := "HEAD /v2/app/manifests/1.2 "
	read := "GET /v2/app/manifests/1.2 200"
	for name, test := range map[string]struct {
		options  []upstreamtest.Option
		change   func(*upstream.Options)
		fault    func(*upstreamtest.Registry)
		probe    func(*upstream.ProbeOptions, digest.Digest) // further options; nil: the tag alone
		want     upstream.Report
		class    upstream.Class
		requests []string // without those of blobs, and their digests
		blobs    int
		tokens   int
	}{
		"open": {
			want:     upstream.Report{Reached: true, Accepted: true, Head: upstream.Supported, Range: upstream.Supported},
			requests: []string{"GET /v2/ 200", byTag + "200", read}, blobs: 1,
		},
		"a blob is known": {
			probe:    func(o *upstream.ProbeOptions, blob digest.Digest) { o.Blob = blob },
			want:     upstream.Report{Reached: true, Accepted: true, Head: upstream.Supported, Range: upstream.Supported},
			requests: []string{"GET /v2/ 200", byTag + "200"}, blobs: 1,
		},
		"as Docker Hub": {
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{})},
			fault:   func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Manifests, limited, left) },
			want: upstream.Report{
				Reached: true, Challenge: "bearer", Accepted: true, Head: upstream.Supported,
				RateLimit: &upstream.RateLimit{Limit: 100, Remaining: 98, Window: 6 * time.Hour},
			},
			requests: []string{"GET /v2/ 401", byTag + "401", byTag + "200"}, tokens: 1,
		},
		"as Docker Hub, at a price": {
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{})},
			fault:   func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Manifests, limited, left) },
			probe:   func(o *upstream.ProbeOptions, _ digest.Digest) { o.Spend = true },
			want: upstream.Report{
				Reached: true, Challenge: "bearer", Accepted: true, Head: upstream.Supported, Range: upstream.Supported,
				RateLimit: &upstream.RateLimit{Limit: 100, Remaining: 98, Window: 6 * time.Hour}, Redirects: []string{"cdn.registry.test:80"},
			},
			requests: []string{"GET /v2/ 401", byTag + "401", byTag + "200", read}, blobs: 1, tokens: 1,
		},
		"no HEAD": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), upstreamtest.Status(405, ""))
			},
			want:     upstream.Report{Reached: true, Accepted: true, Head: upstream.Unsupported, Range: upstream.Supported},
			requests: []string{"GET /v2/ 200", byTag + "405", read}, blobs: 1,
		},
		"no ranges": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Blobs, upstreamtest.IgnoreRange()) },
			want:     upstream.Report{Reached: true, Accepted: true, Head: upstream.Supported, Range: upstream.Unsupported},
			requests: []string{"GET /v2/ 200", byTag + "200", read}, blobs: 1,
		},
		"the root alone": {
			probe:    nothing,
			want:     upstream.Report{Reached: true, Accepted: true},
			requests: []string{"GET /v2/ 200"},
		},
		"the root with a token": {
			options:  []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})},
			probe:    nothing,
			want:     upstream.Report{Reached: true, Challenge: "bearer", Accepted: true},
			requests: []string{"GET /v2/ 401", "GET /v2/ 200"}, tokens: 1,
		},
		"the root with a password": {
			options:  []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")},
			change:   func(o *upstream.Options) { o.Username, o.Password = "reader", "secret" },
			probe:    nothing,
			want:     upstream.Report{Reached: true, Challenge: "basic", Accepted: true},
			requests: []string{"GET /v2/ 401", "GET /v2/ 200"},
		},
		"the root with the wrong password": {
			options:  []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")},
			change:   func(o *upstream.Options) { o.Username, o.Password = "reader", "wrong" },
			probe:    nothing,
			want:     upstream.Report{Reached: true, Challenge: "basic"},
			class:    upstream.ClassDenied,
			requests: []string{"GET /v2/ 401", "GET /v2/ 401"},
		},
		"the root without a password": {
			options:  []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")},
			probe:    nothing,
			want:     upstream.Report{Reached: true, Challenge: "basic"},
			class:    upstream.ClassDenied,
			requests: []string{"GET /v2/ 401"},
		},
		"a token service that denies": {
			options:  []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "secret"})},
			change:   func(o *upstream.Options) { o.Username, o.Password = "reader", "wrong" },
			want:     upstream.Report{Reached: true, Challenge: "bearer"},
			class:    upstream.ClassDenied,
			requests: []string{"GET /v2/ 401", byTag + "401"}, tokens: 1,
		},
		"a broken token service": {
			options:  []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})},
			fault:    func(r *upstreamtest.Registry) { r.CloseToken() },
			probe:    nothing,
			want:     upstream.Report{Reached: true, Challenge: "bearer"},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 401"},
		},
		"denied": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Manifests, upstreamtest.Status(403, "")) },
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassDenied,
			requests: []string{"GET /v2/ 200", byTag + "403", "GET /v2/app/manifests/1.2 403"},
		},
		"not found": {
			fault:    func(r *upstreamtest.Registry) { r.Untag("app", "1.2") },
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassNotFound,
			requests: []string{"GET /v2/ 200", byTag + "404", "GET /v2/app/manifests/1.2 404"},
		},
		"not found, with a page": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Manifests, upstreamtest.Status(404, "<html>"))
			},
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 200", byTag + "404", "GET /v2/app/manifests/1.2 404"},
		},
		"a web server": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(404, "")) },
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 404", byTag + "404", "GET /v2/app/manifests/1.2 404"},
		},
		"a web server with a page for every path": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Any, upstreamtest.Status(200, "<html>"), upstreamtest.Header("Content-Type", "text/html"))
			},
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 200", byTag + "200", "GET /v2/app/manifests/1.2 200"},
		},
		"a registry without the name, that redirects its root": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(func(req *http.Request) bool { return req.URL.Path == "/v2/" }, upstreamtest.Status(307, ""))
				r.Untag("app", "1.2")
			},
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassNotFound,
			requests: []string{"GET /v2/ 307", byTag + "404", "GET /v2/app/manifests/1.2 404"},
		},
		"a web server, asked for its root": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(200, "<html>")) },
			probe:    nothing,
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 200"},
		},
		"a web server without the root": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(404, "")) },
			probe:    nothing,
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 404"},
		},
		"rate limited": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Manifests, upstreamtest.Status(429, "")) },
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassRateLimited,
			requests: []string{"GET /v2/ 200", byTag + "429"},
		},
		"broken": {
			fault:    func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(500, "")) },
			want:     upstream.Report{Reached: true},
			class:    upstream.ClassUnavailable,
			requests: []string{"GET /v2/ 500"},
		},
		"no API at the root": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(func(req *http.Request) bool { return req.URL.Path == "/v2/" }, upstreamtest.Status(404, ""))
			},
			want:     upstream.Report{Reached: true, Accepted: true, Head: upstream.Supported, Range: upstream.Supported},
			requests: []string{"GET /v2/ 404", byTag + "200", read}, blobs: 1,
		},
		"down": {
			fault: func(r *upstreamtest.Registry) { r.Close() },
			class: upstream.ClassUnavailable,
		},
		"another clock": {
			fault: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Any, upstreamtest.Header("Date", "Sat, 01 Jan 2000 00:01:30 GMT"))
			},
			probe:    nothing,
			want:     upstream.Report{Reached: true, Accepted: true, Skew: 90 * time.Second},
			requests: []string{"GET /v2/ 200"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(test.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				r.AddImage("app", "1.2", []byte("a layer"))
				c := newClient(t, r, on(n), func(o *upstream.Options) {
					if test.change != nil {
						test.change(o)
					}
				})
				if test.fault != nil {
					test.fault(r)
				}
				o := upstream.ProbeOptions{Repository: "app", Reference: oci.ByTag("1.2")}
				if test.probe != nil {
					test.probe(&o, digest.FromString("a layer"))
				}
				expectReport(t, c.Probe(t.Context(), o), test.want, test.class)
				var requests, blobs []string
				for _, request := range r.Requests() {
					if len(request) > 17 && request[:17] == "GET /v2/app/blobs" {
						blobs = append(blobs, request)
					} else {
						requests = append(requests, request)
					}
				}
				if !slices.Equal(requests, test.requests) || len(blobs) != test.blobs {
					t.Errorf("asked %q and %q, want %q and %d blobs", requests, blobs, test.requests, test.blobs)
				}
				if test.options != nil && len(r.TokenRequests()) != test.tokens {
					t.Errorf("asked for tokens %q", r.TokenRequests())
				}
			})
		})
	}
}

func nothing(o *upstream.ProbeOptions, _ digest.Digest) { *o = upstream.ProbeOptions{} }

// A root that is elsewhere is followed as a pull would be, and its registry gets no credentials.
func TestProbeOfARootElsewhere(t *testing.T) {
	root := func(req *http.Request) bool { return req.URL.Path == "/v2/" }
	reader := upstreamtest.WithBasic("reader", "secret")
	for name, test := range map[string]struct {
		options, elsewhere []upstreamtest.Option
		effects            []upstreamtest.Effect // of the root elsewhere
		location           string
		want               upstream.Report
		class              upstream.Class
	}{
		"the same registry":              {location: "/v2/?again", want: upstream.Report{Reached: true, Accepted: true}},
		"the same, with a password":      {options: []upstreamtest.Option{reader}, location: "/v2/?again", want: upstream.Report{Reached: true, Challenge: "basic", Accepted: true}},
		"another one":                    {location: "http://other.test/v2/", want: upstream.Report{Reached: true, Accepted: true, Redirects: []string{"other.test"}}},
		"another one with a password":    {elsewhere: []upstreamtest.Option{reader}, location: "http://other.test/v2/", want: upstream.Report{Reached: true, Redirects: []string{"other.test"}}},
		"another kind of server":         {effects: []upstreamtest.Effect{upstreamtest.Status(200, "<html>")}, location: "http://other.test/v2/", want: upstream.Report{Reached: true, Redirects: []string{"other.test"}}, class: upstream.ClassUnavailable},
		"a server that is not there":     {location: "http://nowhere.test/v2/", want: upstream.Report{Reached: true, Redirects: []string{"nowhere.test"}}, class: upstream.ClassUnavailable},
		"another one that is overloaded": {effects: []upstreamtest.Effect{upstreamtest.Status(503, "")}, location: "http://other.test/v2/", want: upstream.Report{Reached: true, Redirects: []string{"other.test"}}, class: upstream.ClassUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(test.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				other := upstreamtest.New(t, append(test.elsewhere, upstreamtest.WithNetwork(n, "other.test"))...)
				r.Fault(root, upstreamtest.Status(307, ""), upstreamtest.Header("Location", test.location)).Times(1)
				if test.effects != nil {
					other.Fault(root, test.effects...)
				}
				c := newClient(t, r, on(n), func(o *upstream.Options) { o.Username, o.Password = "reader", "secret" })
				expectReport(t, c.Probe(t.Context(), upstream.ProbeOptions{}), test.want, test.class)
				for _, request := range other.Log() {
					if request.Header.Get("Authorization") != "" {
						t.Errorf("another registry got %q", request.Header)
					}
				}
			})
		})
	}
}

// Whatever answers in place of a registry is reported as that, with and without an
// image to ask for. A registry that refuses is none of these.
func TestProbeOfOtherServers(t *testing.T) {
	const page, denied = "<!DOCTYPE html><html></html>", `<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>`
	kind := func(value string) upstreamtest.Effect { return upstreamtest.Header("Content-Type", value) }
	status := upstreamtest.Status
	basic := upstreamtest.Header("WWW-Authenticate", `Basic realm="x"`)
	registry := upstreamtest.Header("Docker-Distribution-API-Version", "registry/2.0")
	const check, port, behind, none = upstream.CheckForRegistry, upstream.CheckPort, upstream.CheckBehind, upstream.NoRemedy
	for name, test := range map[string]struct {
		effects     []upstreamtest.Effect
		image, root upstream.Remedy // when asked for an image, and for nothing
	}{
		"registry UI for every path":   {[]upstreamtest.Effect{status(200, page), kind("text/html")}, check, check},
		"page without a type":          {[]upstreamtest.Effect{status(200, page)}, check, check},
		"plain text":                   {[]upstreamtest.Effect{status(200, "It works!"), kind("text/plain")}, check, check},
		"another program's API":        {[]upstreamtest.Effect{status(200, `{"status":"ok"}`), kind("application/json")}, check, check},
		"list of another program's":    {[]upstreamtest.Effect{status(200, `[{"id":1}]`), kind("application/json")}, check, none},
		"nothing with 204":             {[]upstreamtest.Effect{status(204, "")}, check, check},
		"login page elsewhere":         {[]upstreamtest.Effect{status(302, page), upstreamtest.Header("Location", "/login")}, none, check},
		"redirect that leads nowhere":  {[]upstreamtest.Effect{status(301, denied)}, check, check},
		"TLS port, Go":                 {[]upstreamtest.Effect{status(400, "Client sent an HTTP request to an HTTPS server.\n")}, port, port},
		"TLS port, nginx":              {[]upstreamtest.Effect{status(400, "<html><h1>The plain HTTP request was sent to HTTPS port</h1></html>")}, port, port},
		"proxy's refusal":              {[]upstreamtest.Effect{status(403, page)}, check, check},
		"bucket, denied":               {[]upstreamtest.Effect{status(403, denied), kind("application/xml")}, check, check},
		"bucket, no such key":          {[]upstreamtest.Effect{status(404, `<Error><Code>NoSuchBucket</Code></Error>`)}, check, check},
		"bucket, wrong method":         {[]upstreamtest.Effect{status(405, denied)}, check, check},
		"401 without a challenge":      {[]upstreamtest.Effect{status(401, page)}, check, check},
		"proxy's login":                {[]upstreamtest.Effect{status(407, page)}, check, check},
		"gone":                         {[]upstreamtest.Effect{status(410, "")}, check, check},
		"teapot":                       {[]upstreamtest.Effect{status(418, "short and stout")}, check, check},
		"captive portal":               {[]upstreamtest.Effect{status(511, page)}, check, check},
		"web server out of order":      {[]upstreamtest.Effect{status(502, page)}, behind, behind},
		"load balancer without a host": {[]upstreamtest.Effect{status(503, "no healthy upstream")}, behind, behind},
		"API gateway":                  {[]upstreamtest.Effect{status(403, `{"message":"Missing Authentication Token"}`)}, check, check},
		"JSON of another kind":         {[]upstreamtest.Effect{status(404, `{"detail":"Not Found"}`)}, check, check},
		// These may be registries.
		"silent outage":           {[]upstreamtest.Effect{status(503, "")}, none, none},
		"behind a password":       {[]upstreamtest.Effect{status(401, page), basic}, none, none},
		"behind an allow list":    {[]upstreamtest.Effect{status(403, "")}, none, none},
		"registry with a page":    {[]upstreamtest.Effect{status(403, page), registry}, none, none},
		"registry out of order":   {[]upstreamtest.Effect{status(500, `{"errors":[{"code":"UNKNOWN"}]}`)}, none, none},
		"registry that refuses":   {[]upstreamtest.Effect{status(403, `{"errors":[{"code":"DENIED"}]}`)}, none, none},
		"limited, with a page":    {[]upstreamtest.Effect{status(429, page)}, none, none},
		"registry says 400":       {[]upstreamtest.Effect{status(400, `{"errors":[{"code":"UNSUPPORTED"}]}`)}, none, none},
		"root of a bare registry": {[]upstreamtest.Effect{status(200, "true")}, check, none},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				for _, o := range []upstream.ProbeOptions{{Repository: "app", Reference: oci.ByTag("1.2")}, {}} {
					r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry"+o.Repository+".test"))
					r.Fault(upstreamtest.Any, test.effects...)
					want := test.root
					if o.Repository != "" {
						want = test.image
					}
					failed := newClient(t, r, on(n)).Probe(t.Context(), o).Err
					if got := failed; got == nil && want != none || got != nil && got.Remedy() != want {
						t.Errorf("asked for %q: %v, want remedy %d", o.Repository, failed, want)
					}
				}
			})
		})
	}
}

// A web server that asks for a password is no registry either.
func TestProbeOfAPageBehindAPassword(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("reader", "secret"))
		r.Fault(func(req *http.Request) bool { return req.Header.Get("Authorization") != "" }, upstreamtest.Status(200, "<html>"))
		c := newClient(t, r, on(n), func(o *upstream.Options) { o.Username, o.Password = "reader", "secret" })
		if report := c.Probe(t.Context(), upstream.ProbeOptions{}); report.Err == nil || report.Err.Remedy() != upstream.CheckForRegistry || report.Accepted {
			t.Errorf("%+v", report)
		}
	})
}

// A port of another protocol does not even answer in HTTP.
func TestProbeOfOtherProtocols(t *testing.T) {
	for name, answer := range map[string]string{
		"TLS": "\x15\x03\x01\x00\x02\x02\x16", "Redis": "-ERR wrong number of arguments", "SMTP": "500 unrecognized command", "HTTP/0.9": "<html>",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 4096)) // the request
				_, _ = conn.Write([]byte(answer + "\r\n\r\n"))
				conn.Close()
			}
		}()
		c := upstream.NewClient(upstream.Options{URL: &url.URL{Scheme: "http", Host: listener.Addr().String()}, ConnectTimeout: time.Second, ReadTimeout: time.Second})
		t.Cleanup(c.Close)
		if failed := c.Probe(t.Context(), upstream.ProbeOptions{}).Err; failed == nil || failed.Remedy() != upstream.CheckPort {
			t.Errorf("%s: %v", name, failed)
		}
	}
}

// An index leads to a blob through the first of its manifests.
func TestProbeOfAnIndex(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		image := r.AddImage("app", "amd64", []byte("a layer"))
		r.AddIndex("app", "1.2", image)
		report := newClient(t, r, on(n)).Probe(t.Context(), upstream.ProbeOptions{Repository: "app", Reference: oci.ByTag("1.2")})
		if report.Range != upstream.Supported || report.Err != nil {
			t.Errorf("%+v", report)
		}
		if requests := r.Requests(); len(requests) != 5 {
			t.Errorf("asked %q", requests)
		}
	})
}

// The config of a manifest is not taken for a digest unless it is
// one.
func TestProbeOfNonsense(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		for tag, body := range map[string]string{
			"config": `{"schemaVersion":2,"config":{"digest":"../../elsewhere"}}`,
			"index":  `{"schemaVersion":2,"manifests":[{"digest":"../../elsewhere"}]}`,
			"empty":  `{"schemaVersion":2,"layers":[]}`,
		} {
			r.AddManifest("app", tag, "application/vnd.oci.image.manifest.v1+json", []byte(body))
			r.ResetRequests()
			report := newClient(t, r, on(n)).Probe(t.Context(), upstream.ProbeOptions{Repository: "app", Reference: oci.ByTag(tag)})
			if report.Err != nil || report.Range != upstream.Untried || len(r.Requests()) != 3 {
				t.Errorf("%s: %+v after %q", tag, report, r.Requests())
			}
		}
	})
}

// The end of the context is told as an upstream that does not answer.
func TestProbeEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.AddImage("app", "1.2", []byte("a layer"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(upstreamtest.NewGate()))
		why := errors.New("it took too long")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		start := time.Now()
		report := newClient(t, r, on(n)).Probe(ctx, upstream.ProbeOptions{Repository: "app", Reference: oci.ByTag("1.2")})
		expectReport(t, report, upstream.Report{Reached: true}, upstream.ClassUnavailable)
		if !errors.Is(report.Err.Err, why) || time.Since(start) != time.Second {
			t.Errorf("after %s: %v", time.Since(start), report.Err)
		}
		synctest.Wait()
	})
}

// The certificate's end is told, and a client certificate is shown.
func TestProbeWithCertificates(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithClientCertificates())
	r.AddImage("app", "1.2", []byte("a layer"))
	certificate := r.ClientCertificate()
	c := newClient(t, r, func(o *upstream.Options) { o.Certificate, o.RootCAs = &certificate, r.RootCAs() })
	report := c.Probe(t.Context(), upstream.ProbeOptions{Repository: "app", Reference: oci.ByTag("1.2")})
	if report.Err != nil || report.Range != upstream.Supported || time.Until(report.CertificateExpires) < 49*365*24*time.Hour {
		t.Errorf("%+v", report)
	}
	c = newClient(t, r, func(o *upstream.Options) { o.RootCAs = r.RootCAs() })
	expectReport(t, c.Probe(t.Context(), upstream.ProbeOptions{}), upstream.Report{}, upstream.ClassUnavailable)
}
