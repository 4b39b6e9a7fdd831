package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
)

func TestNamedImages(t *testing.T) {
	const dgst = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	specs := []namespace.Spec{
		{Key: "library", Host: "docker.io", Default: true, DockerHub: true},
		{Key: "ghcr.io", Host: "ghcr.io"},
		{Key: "ghcr.io/acme"},
		{Key: "localhost:5000", Host: "localhost:5000"},
	}
	for text, want := range map[string]struct{ key, image string }{
		"nginx":                      {"library", "library/nginx:latest"},
		"nginx:1.2":                  {"library", "library/nginx:1.2"},
		"library/nginx":              {"library", "library/nginx:latest"},
		"docker.io/library/nginx":    {"library", "library/nginx:latest"},
		"docker.io/grafana/grafana":  {"library", "grafana/grafana:latest"},
		"index.docker.io/nginx":      {"library", "library/nginx:latest"},
		"ghcr.io/org/app:1.2":        {"ghcr.io", "org/app:1.2"},
		"ghcr.io/acme/app":           {"ghcr.io/acme", "app:latest"},
		"localhost:5000/app":         {"localhost:5000", "app:latest"},
		"ghcr.io/org/app@" + dgst:    {"ghcr.io", "org/app@sha256:2d711642b726"},
		"localhost:5000/app@" + dgst: {"localhost:5000", "app@sha256:2d711642b726"},
	} {
		images, err := namedImages(specs, []string{text})
		if got := images[want.key]; err != nil || got.String() != want.image || len(images) != 1 {
			t.Errorf("%s: %v, %v; want %s of %s", text, images, err, want.image, want.key)
		}
	}
	for text, want := range map[string]string{
		"gchr.io/org/app":            "--image gchr.io/org/app: no configured repository answers this name: gchr.io/org/app; did you mean ghcr.io/org/app?",
		"UPPER":                      `--image: "UPPER" is not an image`,
		"ghcr.io/org/app:":           `--image: "ghcr.io/org/app:" is not an image`,
		"ghcr.io/org/app@sha256:abc": `--image: "ghcr.io/org/app@sha256:abc" is not an image`,
	} {
		if _, err := namedImages(specs[1:], []string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := namedImages(specs, []string{"nginx", "ghcr.io/a", "alpine"}); err == nil || !strings.Contains(err.Error(), `repository."library" is asked for library/nginx:latest already`) {
		t.Errorf("two of one repository: %v", err)
	}
}

// Every upstream of the built-in configuration has a well-known image, and what
// is no public registry's root has none.
func TestWellKnownImages(t *testing.T) {
	for _, repo := range config.Default().Namespaces {
		if i := wellKnown(repo.Upstreams[0]); i.origin != public || i.reference == "" {
			t.Errorf("%s: %v", repo.Key, i)
		}
	}
	for _, url := range []string{"https://registry.example.com", "https://ghcr.io/acme", "https://ghcr.io:5000"} {
		var parsed config.URL
		if err := parsed.UnmarshalText([]byte(url)); err != nil {
			t.Fatal(err)
		}
		if i := wellKnown(config.Upstream{URL: parsed}); i.origin != none {
			t.Errorf("%s: %v", url, i)
		}
	}
}

// What a report means: is it a failure, and what is said.
func TestResults(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	fine := upstream.Report{Reached: true, Dated: true, Challenge: "bearer", Accepted: true, Head: upstream.Supported, Range: upstream.Supported}
	report := func(change func(*upstream.Report)) upstream.Report {
		r := fine
		change(&r)
		return r
	}
	failed := func(class upstream.Class) upstream.Report {
		return upstream.Report{Reached: true, Challenge: "bearer", Err: &upstream.Error{
			Host: "ghcr.io", Repository: "org/app", Reference: "1.2", Class: class, RetryAfter: time.Minute,
		}}
	}
	app := image{origin: cached, repository: "org/app", reference: "1.2"}
	guess := image{origin: public, repository: "org/app", reference: "1.2"}
	for name, test := range map[string]struct {
		check          check
		status, login  string
		errors, remark string // parts of the only one; "": there is none
	}{
		"fine":                         {check{report: fine, image: app}, statusOK, loginAnonymous, "", ""},
		"with credentials":             {check{report: fine, image: app, credentials: true}, statusOK, loginAccepted, "", ""},
		"with a certificate":           {check{report: report(func(r *upstream.Report) { r.Challenge = "" }), image: app, certificate: true}, statusOK, loginAccepted, "", ""},
		"credentials nobody asked for": {check{report: report(func(r *upstream.Report) { r.Challenge = "" }), image: app, credentials: true}, statusOK, loginAnonymous, "", ""},
		"offline":                      {check{offline: true, image: app}, statusSkipped, loginUnknown, "", ""},
		"denied":                       {check{report: failed(upstream.ClassDenied), image: app}, statusFailed, loginRefused, "private or does not exist", ""},
		"denied a guess":               {check{report: failed(upstream.ClassDenied), image: guess}, statusOK, loginUnknown, "", "--image"},
		"denied a guess all the same":  {check{report: failed(upstream.ClassDenied), image: guess, credentials: true}, statusFailed, loginRefused, "org/app", ""},
		"not found":                    {check{report: failed(upstream.ClassNotFound), image: app}, statusOK, loginUnknown, "", "does not have it: name an image that it has with --image"},
		"rate limited":                 {check{report: failed(upstream.ClassRateLimited), image: app}, statusFailed, loginUnknown, "allows no more requests until", ""},
		"unavailable":                  {check{report: failed(upstream.ClassUnavailable), image: app}, statusFailed, loginUnknown, "could not deliver", ""},
		"limit used up": {check{report: report(func(r *upstream.Report) {
			r.RateLimit = &upstream.RateLimit{Limit: 100, Window: 6 * time.Hour}
		}), image: app}, statusFailed, loginAnonymous, "its rate limit of 100 in 6h is used up: wait, or set username and password", ""},
		"limit that allows": {check{report: report(func(r *upstream.Report) {
			r.RateLimit = &upstream.RateLimit{Limit: 100, Remaining: 1}
		}), image: app}, statusOK, loginAnonymous, "", ""},
		"ranges spared": {check{report: report(func(r *upstream.Report) {
			r.Range, r.RateLimit = upstream.Untried, &upstream.RateLimit{Limit: 100, Remaining: 50}
		}), image: guess}, statusOK, loginAnonymous, "", "name an image with --image"},
		"nothing to try": {check{report: upstream.Report{Reached: true, Accepted: true}}, statusOK, loginAnonymous, "", "HEAD and ranges were not tried"},
		"no HEAD":        {check{report: report(func(r *upstream.Report) { r.Head = upstream.Unsupported }), image: app}, statusOK, loginAnonymous, "", "refuses HEAD"},
		"no ranges":      {check{report: report(func(r *upstream.Report) { r.Range = upstream.Unsupported }), image: app}, statusOK, loginAnonymous, "", "ignores ranges"},
		"fast clock":     {check{report: report(func(r *upstream.Report) { r.Skew = 31 * time.Second }), image: app}, statusOK, loginAnonymous, "", "31s ahead of this machine's: check NTP"},
		"slow clock":     {check{report: report(func(r *upstream.Report) { r.Skew = -time.Hour }), image: app}, statusOK, loginAnonymous, "", "1h0m0s behind this machine's: check NTP"},
		"a little off":   {check{report: report(func(r *upstream.Report) { r.Skew = -30 * time.Second }), image: app}, statusOK, loginAnonymous, "", ""},
		"certificate":    {check{report: report(func(r *upstream.Report) { r.CertificateExpires = now.AddDate(0, 0, 13) }), image: app}, statusOK, loginAnonymous, "", "expires on 2026-01-15"},
		"good for long":  {check{report: report(func(r *upstream.Report) { r.CertificateExpires = now.AddDate(0, 0, 15) }), image: app}, statusOK, loginAnonymous, "", ""},
	} {
		test.check.keys = []string{`repository."ghcr.io".upstream[0]`}
		r := test.check.result(now)
		if r.Status != test.status || r.Authentication != test.login {
			t.Errorf("%s: status %s, login %s", name, r.Status, r.Authentication)
		}
		for kind, lines := range map[string][2][]string{"errors": {r.Errors, {test.errors}}, "remarks": {r.Remarks, {test.remark}}} {
			got, want := lines[0], lines[1][0]
			if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
				t.Errorf("%s: %s %q, want %q", name, kind, got, want)
			}
		}
	}
}

// One upstream with one set of credentials is one check, however many
// repositories name it.
func TestChecks(t *testing.T) {
	cfg, _ := loadText(t, `
[[repository."a".upstream]]
url = "https://registry.example"
[[repository."a".upstream]]
url = "https://ghcr.io"
[[repository."b".upstream]]
url = "https://registry.example"
[[repository."c".upstream]]
url = "https://registry.example"
username = "reader"
password = "secret"
[repository."d"]
offline = true
[[repository."d".upstream]]
url = "https://registry.example"
`)
	var stderr strings.Builder
	open, err := app.OpenUpstreams(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	checks, err := checks(t.Context(), cfg, open, []string{"b/app:1.2"}, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range checks {
		line := c.host + " " + strings.Join(c.keys, " ") + " " + c.image.String()
		if c.offline {
			line += " offline"
		}
		got = append(got, strings.ReplaceAll(strings.ReplaceAll(line, "repository.", ""), "upstream", ""))
	}
	if want := []string{
		`registry.example "a".[0] "b".[0] app:1.2`,
		`ghcr.io "a".[1] stefanprodan/podinfo:latest`,
		`registry.example "c".[0] `,
		`registry.example "d".[0]  offline`,
	}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if stderr.Len() > 0 {
		t.Errorf("a store that is not there yet is worth no word: %s", &stderr)
	}
}
