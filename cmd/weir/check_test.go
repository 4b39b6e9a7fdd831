package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/check"
)

// Targets are in the order of the configuration, and equal upstreams have one
// client.
func TestTargets(t *testing.T) {
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
	open, err := app.OpenUpstreams(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	found := open.Targets(cfg)
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprint(f.Namespace, " ", f.URL, " ", f.Credentials, f.Offline, f.Client == found[0].Client))
	}
	if want := []string{
		"a https://registry.example false false true",
		"a https://ghcr.io false false false",
		"b https://registry.example false false true",
		"c https://registry.example true false false",
		"d https://registry.example false true true",
	}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if found[1].Key != `repository."a".upstream[1]` {
		t.Errorf("the key is %s", found[1].Key)
	}
}

// Images of the command line are read before any upstream is contacted.
func TestImagesThatCannotBeProbed(t *testing.T) {
	_, path := loadText(t, twoRepositories)
	for text, want := range map[string]string{
		"gchr.io/org/app":            "--image gchr.io/org/app: no configured repository answers this name: gchr.io/org/app; did you mean ghcr.io/org/app?",
		"UPPER":                      `--image: "UPPER" is not an image`,
		"ghcr.io/org/app:":           `--image: "ghcr.io/org/app:" is not an image`,
		"ghcr.io/org/app@sha256:abc": `--image: "ghcr.io/org/app@sha256:abc" is not an image`,
	} {
		if code, _, stderr := invoke(t, "check", "--online", "--image", text, "--config", path); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: %d, %s; want %s", text, code, stderr, want)
		}
	}
}

// A store that is not there yet is no reason for a warning.
func TestNothingIsCached(t *testing.T) {
	cfg, _ := loadText(t, "")
	images, err := check.NewImages(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := addCached(t.Context(), cfg, images); err != nil {
		t.Error(err)
	}
}

// sampleResults are results of each kind.
func sampleResults() []check.Result {
	yes, no, skew := true, false, int64(-61)
	near, far := 12.4, 104.6
	return []check.Result{
		{
			Upstream: "registry-1.docker.io", Blocks: []string{"docker.io"}, Keys: []string{`repository."docker.io".upstream[0]`},
			Status: check.StatusOK, Image: "library/alpine:latest", Reachable: true, LatencyMS: &far,
			Authentication: check.LoginAccepted, Head: &yes, RateLimit: &check.RateLimit{Limit: 200, Remaining: 187, WindowSeconds: 21600},
			Remarks: []string{"ranges were not tried, since this takes up to two requests of the rate limit. Name an image with --image to try them"},
		},
		{
			Upstream: "ghcr.io", Blocks: []string{"ghcr.io", "team"}, Keys: []string{`repository."ghcr.io".upstream[0]`, `repository."team".upstream[0]`},
			Status: check.StatusOK, Image: "org/app:1.2", Reachable: true, LatencyMS: &near,
			Authentication: check.LoginAnonymous, Head: &yes, Range: &no, ClockSkewSeconds: &skew, RedirectsTo: []string{"pkg-containers.githubusercontent.com"},
			Remarks: []string{"it ignores ranges. A download that breaks off starts over"},
		},
		{
			Upstream: "nexus.internal", Blocks: []string{"nexus.internal"}, Keys: []string{`repository."nexus.internal".upstream[0]`},
			Status: check.StatusFailed, Reachable: true, LatencyMS: &near, Authentication: check.LoginUnknown,
			Errors: []string{`nexus.internal could not deliver /v2/ (200 OK). The answer is not that of a registry. ` +
				`Check url of repository."nexus.internal".upstream[0], and whether a proxy or a login page is in between`},
		},
		{Upstream: "quay.io", Blocks: []string{"quay.io"}, Keys: []string{`repository."quay.io".upstream[0]`}, Status: check.StatusSkipped},
	}
}

// The page about faults shows the report. A line of it fits on a terminal.
func TestCheckTable(t *testing.T) {
	var out strings.Builder
	if err := writeTable(&out, sampleResults()); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```text\n"+out.String()+"```\n") {
		t.Errorf("docs/troubleshooting.md does not show\n%s", out.String())
	}
}

// However long names are, a line has 80 columns at most, and no part of a name is lost.
func TestCheckTableIsNarrow(t *testing.T) {
	latency := 60000.0
	host := strings.Repeat("registry-of-the-department.", 8) + "example.com:5000"
	for _, c := range []struct{ block, upstream string }{
		{"docker.io", "registry-1.docker.io"},
		{"a", host},
		{strings.Repeat("team/", 40) + "a", "ghcr.io"},
		{strings.Repeat("x", 255), strings.Repeat("y", 63) + ".example.com"},
		{host, host},
		{"registry.gitlab.com", strings.Repeat("é", 100)},
	} {
		result := check.Result{
			Upstream: c.upstream, Blocks: []string{c.block, c.block}, Keys: []string{fmt.Sprintf("repository.%q.upstream[0]", c.block)},
			Status: check.StatusFailed, Reachable: true, LatencyMS: &latency, Authentication: check.LoginAccepted, Image: c.block + ":1.2",
			RedirectsTo: []string{host, host}, Errors: []string{"a " + c.upstream + " failed", strings.Repeat("word ", 100)}, Remarks: []string{host},
		}
		var out strings.Builder
		if err := writeTable(&out, []check.Result{result, {Upstream: c.upstream, Blocks: []string{c.block}, Status: check.StatusSkipped}}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > 80 || strings.TrimRight(line, " ") != line || !utf8.ValidString(line) {
				t.Errorf("longer than 80: %q", line)
			}
		}
		joined := strings.Join(strings.Fields(out.String()), "")
		if !strings.Contains(joined, "a"+c.upstream+"failed") {
			t.Errorf("%s is not whole in\n%s", c.upstream, out.String())
		}
	}
}

// The command fails if an upstream has failed, whatever it prints.
func TestReport(t *testing.T) {
	results := []check.Result{{Upstream: "a", Status: check.StatusFailed}, {Upstream: "b", Status: check.StatusOK}}
	for _, output := range []string{"table", "json"} {
		var out strings.Builder
		if err := report(results, output, &out); err == nil || err.Error() != "upstreams that failed: 1 of 2" || !strings.Contains(out.String(), "a") {
			t.Errorf("%s: %v", output, err)
		}
	}
	if err := report(results[1:], "json", io.Discard); err != nil {
		t.Error(err)
	}
}
