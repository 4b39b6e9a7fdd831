package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

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
	found := targets(cfg, open)
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

func TestCheckTable(t *testing.T) {
	yes, no, skew := true, false, int64(-61)
	latency := 12.4
	var out strings.Builder
	err := writeTable(&out, []check.Result{
		{
			Upstream: "ghcr.io", Keys: []string{"k"}, Status: check.StatusOK, Image: "org/app:1.2", Reachable: true, LatencyMS: &latency,
			Authentication: check.LoginAnonymous, Head: &yes, Range: &no, ClockSkewSeconds: &skew,
			RateLimit: &check.RateLimit{Limit: 100, Remaining: 7, WindowSeconds: 21600}, RedirectsTo: []string{"cdn"},
			Remarks: []string{"its clock is wrong"},
		},
		{Upstream: "quay.io", Keys: []string{"q"}, Status: check.StatusFailed, Authentication: check.LoginUnknown, Errors: []string{"it is gone"}},
		{Upstream: "off.example", Status: check.StatusSkipped},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `UPSTREAM     STATUS   REACHABLE  LOGIN      HEAD  RANGE  RATE LIMIT           REDIRECTS TO  CLOCK  ASKED FOR
ghcr.io      ok       12 ms      anonymous  yes   no     7 of 100 in 6h left  cdn           -61 s  org/app:1.2
quay.io      failed   no         ?          ?     ?      ?                    -             ?      /v2/
off.example  skipped                                                                               nothing: offline = true

remark: ghcr.io (k):
  its clock is wrong

error: quay.io (q):
  it is gone
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
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
