package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// online is what check --online prints of one upstream as JSON.
type online struct {
	Upstream       string
	Keys           []string
	Status         string
	Image          string
	Reachable      bool
	Authentication string
	Head, Range    *bool
	RateLimit      *struct{ Limit, Remaining int } `json:"rate_limit"`
	RedirectsTo    []string                        `json:"redirects_to"`
	Errors         []string
}

// A real registry with the right and the wrong password, one like Docker Hub,
// one that is down, and one that is not to be asked.
func TestCheckOnline(t *testing.T) {
	t.Parallel()
	const password = "correct horse battery staple"
	d := startHtpasswd(t, "puller", password)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr, Username: "puller", Password: password}
	push.PushImage(t, "org/app", "1.2", harness.NewImage(t, 1000))
	hub := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{}))
	hub.AddImage("library/alpine", "3.20", []byte("a layer"))
	hub.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "98;w=21600"))
	untouched := upstreamtest.New(t)
	gone := harness.FreeAddr(t)

	login := "username = \"puller\"\npassword = \"%s\"\n"
	file := filepath.Join(t.TempDir(), "config.toml")
	harness.WriteFile(t, file, fmt.Sprintf("[blob_store.fs]\nroot_dir = %q\n", filepath.Join(t.TempDir(), "data"))+
		blockOf("right", nil, []string{fmt.Sprintf("url = \"http://%s\"\n"+login, d.Addr, password)})+
		blockOf("wrong", nil, []string{fmt.Sprintf("url = \"http://%s\"\n"+login, d.Addr, "wr0ng")})+
		blockOf("hub", nil, at(hub))+
		blockOf("gone", nil, []string{fmt.Sprintf("url = \"http://%s\"", gone)})+
		blockOf("quiet", []string{"offline = true"}, at(untouched)))
	args := []string{"check", "--online", "--config", file, "--image", "right/org/app:1.2", "--image", "wrong/org/app:1.2", "--image", "hub/library/alpine:3.20"}
	table := command(t, t.TempDir(), args...)
	if table.code != 1 || !strings.Contains(table.stderr, "weir: upstreams that failed: 2 of 5") {
		t.Errorf("%+v", table)
	}
	for _, line := range []string{
		`UPSTREAM +STATUS +REACHABLE +LOGIN +HEAD +RANGE +RATE LIMIT +REDIRECTS TO +CLOCK +ASKED FOR`,
		d.Addr + ` +ok +\d+ ms +accepted +yes +yes +- +- +ok +org/app:1\.2`,
		d.Addr + ` +failed +\d+ ms +refused +\? +\? +- +- +ok +org/app:1\.2`,
		regexp.QuoteMeta(hub.URL.Host) + ` +ok +\d+ ms +anonymous +yes +yes +98 of 100 in 6h left +` + hub.CDNHost() + ` +ok +library/alpine:3\.20`,
		gone + ` +failed +no +\? +\? +\? +\? +- +\? +/v2/`,
		untouched.URL.Host + ` +skipped +nothing: offline = true`,
		`error: ` + d.Addr + ` \(repository\."wrong"\.upstream\[0\]\):\n  .*refused the configured credentials for org/app:1\.2.*check username and password of repository\."wrong"\.upstream\[0\]`,
		`error: ` + gone + ` \(repository\."gone"\.upstream\[0\]\):\n  .*nothing listens there: check url of repository\."gone"\.upstream\[0\]`,
	} {
		if !regexp.MustCompile(line).MatchString(table.stdout) {
			t.Errorf("no line is like %s:\n%s", line, table.stdout)
		}
	}
	if asked := untouched.Requests(); len(asked) > 0 {
		t.Errorf("the upstream of an offline block was asked %q", asked)
	}

	document := command(t, t.TempDir(), append(args, "--output", "json")...)
	var results []online
	if err := json.Unmarshal([]byte(document.stdout), &results); err != nil || document.code != 1 || len(results) != 5 {
		t.Fatalf("%+v: %v", document, err)
	}
	for i, want := range []struct{ key, status, login string }{
		{"gone", "failed", "unknown"}, {"hub", "ok", "anonymous"}, {"quiet", "skipped", "unknown"}, {"right", "ok", "accepted"}, {"wrong", "failed", "refused"},
	} {
		got := results[i]
		if len(got.Keys) != 1 || got.Keys[0] != fmt.Sprintf("repository.%q.upstream[0]", want.key) || got.Status != want.status ||
			got.Authentication != want.login || (got.Status == "failed") != (len(got.Errors) > 0) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if h := results[1]; h.RateLimit == nil || h.RateLimit.Limit != 100 || h.RateLimit.Remaining != 98 || len(h.RedirectsTo) != 1 || h.Head == nil || !*h.Head || h.Range == nil || !*h.Range {
		t.Errorf("like Docker Hub: %+v", h)
	}
	for _, got := range []result{table, document} {
		if text := got.stdout + got.stderr; strings.Contains(text, password) || strings.Contains(text, "wr0ng") {
			t.Errorf("a password is in %s", text)
		}
	}
}

// All is well: exit code 0. What the mirror has cached is what is asked for, and
// a mirror that is running does not mind.
func TestCheckOnlineOfWhatIsCached(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "1.2", []byte("a layer"))
	w := harness.StartWeir(t, block("ghcr.io", upstream))
	expect(t, "a pull", w.Get(t, manifestPath("ghcr.io/org/app", "1.2")), http.StatusOK, "")
	upstream.ResetRequests()
	got := maintain(t, w, "check", "--online")
	if got.code != 0 || !strings.Contains(got.stdout, "org/app:1.2\n") || strings.Contains(got.stdout, "error:") {
		t.Errorf("%+v", got)
	}
	if asked := upstream.Requests(); len(asked) < 2 || asked[1] != "HEAD /v2/org/app/manifests/1.2 200" {
		t.Errorf("the upstream was asked %q", asked)
	}
}

func TestCheckOnlineEnds(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
	file := filepath.Join(t.TempDir(), "config.toml")
	harness.WriteFile(t, file, block("ghcr.io", upstream))
	got := command(t, t.TempDir(), "check", "--online", "--config", file, "--timeout", "100ms")
	if got.code != 1 || !strings.Contains(got.stdout, "it was not done within 100ms (--timeout)") {
		t.Errorf("%+v", got)
	}
	for args, want := range map[string]string{
		"--image nginx":                "--image is for check --online",
		"--online --output yaml":       `--output is "yaml": it can be table or json`,
		"--online --timeout 0s":        "--timeout is 0s: it must be more than nothing",
		"--online --image quay.io/a/b": "--image quay.io/a/b: no configured repository answers this name",
	} {
		if got := command(t, t.TempDir(), append([]string{"check", "--config", file}, strings.Fields(args)...)...); got.code != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("weir check %s: %+v, want %s", args, got, want)
		}
	}
}

// startHtpasswd runs a real registry that has one account.
func startHtpasswd(t *testing.T, username, password string) *harness.Distribution {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	harness.Must(t, err)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	harness.WriteFile(t, htpasswd, username+":"+string(hash)+"\n")
	return harness.StartDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}", htpasswd))
}
