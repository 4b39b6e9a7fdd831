package check

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// add returns images that clients name.
func add(t *testing.T, specs []namespace.Spec, texts ...string) (*Images, error) {
	t.Helper()
	images, err := NewImages(specs)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		image, err := oci.ParseImage(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Add(image); err != nil {
			return images, err
		}
	}
	return images, nil
}

func TestNamedImages(t *testing.T) {
	const dgst = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	specs := []namespace.Spec{
		{Key: "library", Host: "docker.io", Default: true, DockerHub: true},
		{Key: "ghcr.io", Host: "ghcr.io"},
		{Key: "ghcr.io/acme"},
		{Key: "library/acme"},
		{Key: "localhost:5000", Host: "localhost:5000"},
	}
	for text, want := range map[string]struct{ key, image string }{
		"nginx":                      {"library", "library/nginx:latest"},
		"nginx:1.2":                  {"library", "library/nginx:1.2"},
		"library/nginx":              {"library", "library/nginx:latest"},
		"docker.io/library/nginx":    {"library", "library/nginx:latest"},
		"docker.io/grafana/grafana":  {"library", "grafana/grafana:latest"},
		"docker.io/acme/app":         {"library/acme", "app:latest"},
		"index.docker.io/nginx":      {"library", "library/nginx:latest"},
		"ghcr.io/org/app:1.2":        {"ghcr.io", "org/app:1.2"},
		"ghcr.io/acme/app":           {"ghcr.io/acme", "app:latest"},
		"localhost:5000/app":         {"localhost:5000", "app:latest"},
		"ghcr.io/org/app@" + dgst:    {"ghcr.io", "org/app@sha256:2d711642b726"},
		"localhost:5000/app@" + dgst: {"localhost:5000", "app@sha256:2d711642b726"},
	} {
		images, err := add(t, specs, text)
		if got := images.byKey[want.key]; err != nil || got.String() != want.image || len(images.byKey) != 1 {
			t.Errorf("%s: %v, %v; want %s of %s", text, images.byKey, err, want.image, want.key)
		}
	}
	for text, want := range map[string]string{
		"gchr.io/org/app": "no configured repository answers this name: gchr.io/org/app; did you mean ghcr.io/org/app?",
	} {
		if _, err := add(t, specs[1:], text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := add(t, specs, "nginx", "ghcr.io/a", "alpine"); err == nil || !strings.Contains(err.Error(), `alpine is in the block "library", for which library/nginx:latest is already given. Name one`) {
		t.Errorf("two of one repository: %v", err)
	}
}

// Every upstream of the built-in configuration has a well-known image. Only the
// root of a public registry has one.
func TestWellKnownImages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range cfg.Namespaces {
		if i := wellKnown(repo.Upstreams[0].URL.Std()); i.origin != public || i.reference == (oci.Reference{}) {
			t.Errorf("%s: %v", repo.Key, i)
		}
	}
	for _, target := range []string{"https://registry.example.com", "https://ghcr.io/acme", "https://ghcr.io:5000"} {
		url, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if i := wellKnown(url); i.origin != unknown {
			t.Errorf("%s: %v", url, i)
		}
	}
}

// A report is a failure or not, and has an error or a remark.
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
	asked := image{origin: cached, repository: "org/app", reference: oci.ByTag("1.2")}
	guess := image{origin: public, repository: "org/app", reference: oci.ByTag("1.2")}
	for name, test := range map[string]struct {
		check          check
		status, login  string
		errors, remark string // parts of the only one; "": there is none
	}{
		"fine":                         {check{report: fine, image: asked}, StatusOK, LoginAnonymous, "", ""},
		"with credentials":             {check{report: fine, image: asked, credentials: true}, StatusOK, LoginAccepted, "", ""},
		"with a certificate":           {check{report: report(func(r *upstream.Report) { r.Challenge = "" }), image: asked, certificate: true}, StatusOK, LoginAccepted, "", ""},
		"credentials nobody asked for": {check{report: report(func(r *upstream.Report) { r.Challenge = "" }), image: asked, credentials: true}, StatusOK, LoginAnonymous, "", ""},
		"offline":                      {check{offline: true, image: asked}, StatusSkipped, LoginUnknown, "", ""},
		"denied":                       {check{report: failed(upstream.ClassDenied), image: asked}, StatusFailed, LoginRefused, "private or does not exist", ""},
		"denied a guess":               {check{report: failed(upstream.ClassDenied), image: guess}, StatusOK, LoginUnknown, "", "--image"},
		"denied a guess all the same":  {check{report: failed(upstream.ClassDenied), image: guess, credentials: true}, StatusFailed, LoginRefused, "org/app", ""},
		"not found":                    {check{report: failed(upstream.ClassNotFound), image: asked}, StatusOK, LoginUnknown, "", "does not have org/app:1.2. Name an existing image with --image"},
		"rate limited":                 {check{report: failed(upstream.ClassRateLimited), image: asked}, StatusFailed, LoginUnknown, "allows no more requests until", ""},
		"unavailable":                  {check{report: failed(upstream.ClassUnavailable), image: asked}, StatusFailed, LoginUnknown, "could not deliver", ""},
		"limit used up": {check{report: report(func(r *upstream.Report) {
			r.RateLimit = &upstream.RateLimit{Limit: 100, Window: 6 * time.Hour}
		}), image: asked}, StatusFailed, LoginAnonymous, "its rate limit of 100 in 6h is used up. Wait, or set username and password", ""},
		"limit that allows": {check{report: report(func(r *upstream.Report) {
			r.RateLimit = &upstream.RateLimit{Limit: 100, Remaining: 1}
		}), image: asked}, StatusOK, LoginAnonymous, "", ""},
		"ranges spared": {check{report: report(func(r *upstream.Report) {
			r.Range, r.RateLimit = upstream.Untried, &upstream.RateLimit{Limit: 100, Remaining: 50}
		}), image: guess}, StatusOK, LoginAnonymous, "", "Name an image with --image"},
		"nothing to try": {check{report: upstream.Report{Reached: true, Accepted: true}}, StatusOK, LoginAnonymous, "", "HEAD and ranges were not tried"},
		"no HEAD":        {check{report: report(func(r *upstream.Report) { r.Head = upstream.Unsupported }), image: asked}, StatusOK, LoginAnonymous, "", "refuses HEAD"},
		"no ranges":      {check{report: report(func(r *upstream.Report) { r.Range = upstream.Unsupported }), image: asked}, StatusOK, LoginAnonymous, "", "ignores ranges"},
		"fast clock":     {check{report: report(func(r *upstream.Report) { r.Skew = 31 * time.Second }), image: asked}, StatusOK, LoginAnonymous, "", "31s ahead of this machine's. Check NTP"},
		"slow clock":     {check{report: report(func(r *upstream.Report) { r.Skew = -time.Hour }), image: asked}, StatusOK, LoginAnonymous, "", "1h0m0s behind this machine's. Check NTP"},
		"a little off":   {check{report: report(func(r *upstream.Report) { r.Skew = -30 * time.Second }), image: asked}, StatusOK, LoginAnonymous, "", ""},
		"certificate":    {check{report: report(func(r *upstream.Report) { r.CertificateExpires = now.AddDate(0, 0, 13) }), image: asked}, StatusOK, LoginAnonymous, "", "expires on 2026-01-15"},
		"good for long":  {check{report: report(func(r *upstream.Report) { r.CertificateExpires = now.AddDate(0, 0, 15) }), image: asked}, StatusOK, LoginAnonymous, "", ""},
	} {
		test.check.keys = []string{`repository."ghcr.io".upstream[0]`}
		r := test.check.result(now, advice)
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
