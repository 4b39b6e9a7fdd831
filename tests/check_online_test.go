package tests

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// checkSecret is the password of all that is checked. Nothing may print it.
const checkSecret = "open-sesame"

// checkOnline runs weir check --online on a configuration of repository blocks.
func checkOnline(t *testing.T, blocks string, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[blob_store.fs]\nroot_dir = \"data\"\n"+blocks)
	got := command(t, dir, append([]string{"check", "--online"}, args...)...)
	if strings.Contains(got.stdout+got.stderr, checkSecret) {
		t.Errorf("it prints a secret:\n%s%s", got.stdout, got.stderr)
	}
	return got
}

// withPassword are the credentials of an upstream.
func withPassword(password string) []string {
	return []string{`username = "reader"`, fmt.Sprintf("password = %q", password)}
}

const checkGolden = `[
  {
    "upstream": "REGISTRY",
    "blocks": [
      "hub"
    ],
    "keys": [
      "repository.\"hub\".upstream[0]"
    ],
    "status": "ok",
    "image": "org/app:1.2",
    "reachable": true,
    "latency_ms": LATENCY,
    "authentication": "accepted",
    "challenge": "bearer",
    "head": true,
    "range": true,
    "rate_limit": {
      "limit": 100,
      "remaining": 98,
      "window_seconds": 21600
    },
    "redirects_to": [
      "CDN"
    ],
    "clock_skew_seconds": SKEW,
    "certificate_expires": null,
    "errors": [],
    "remarks": []
  },
  {
    "upstream": "resting.example",
    "blocks": [
      "resting"
    ],
    "keys": [
      "repository.\"resting\".upstream[0]"
    ],
    "status": "skipped",
    "image": "",
    "reachable": false,
    "latency_ms": null,
    "authentication": "unknown",
    "challenge": "",
    "head": null,
    "range": null,
    "rate_limit": null,
    "redirects_to": [],
    "clock_skew_seconds": null,
    "certificate_expires": null,
    "errors": [],
    "remarks": []
  }
]
`

// hubLike is a registry with tokens, a rate limit and a CDN, and an image.
func hubLike(t *testing.T) *upstreamtest.Registry {
	t.Helper()
	hub := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}), upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: checkSecret}))
	hub.AddImage("org/app", "1.2", []byte("a layer"))
	hub.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "98;w=21600"))
	return hub
}

func TestCheckOnlineJSON(t *testing.T) {
	t.Parallel()
	hub := hubLike(t)
	got := checkOnline(t, blockOf("hub", nil, at(hub, withPassword(checkSecret)...))+
		blockOf("resting", []string{"offline = true"}, []string{`url = "https://resting.example"`}),
		"--image", "hub/org/app:1.2", "--output", "json")
	text := strings.NewReplacer(hub.Host, "REGISTRY", hub.CDNHost(), "CDN").Replace(got.stdout)
	text = regexp.MustCompile(`"latency_ms": [0-9.]+`).ReplaceAllString(text, `"latency_ms": LATENCY`)
	text = regexp.MustCompile(`"clock_skew_seconds": (-1|0|1),`).ReplaceAllString(text, `"clock_skew_seconds": SKEW,`) // dates are whole seconds
	if text != checkGolden || got.code != 0 || got.stderr != "" {
		t.Errorf("exit code %d, stderr %q, stdout\n%s", got.code, got.stderr, text)
	}
	if requests := hub.Requests(); strings.Count(strings.Join(requests, "\n"), "GET /v2/org/app/manifests/") != 1 {
		t.Errorf("it read more than one manifest, or none: %q", requests)
	}
}

// Without --image, nothing that counts against a rate limit is asked for: an
// image that is cached is asked for by HEAD.
func TestCheckOnlineOfWhatIsCached(t *testing.T) {
	t.Parallel()
	hub := hubLike(t)
	w := harness.StartWeir(t, blockOf("hub", nil, at(hub, withPassword(checkSecret)...)))
	expect(t, "cold", w.Get(t, manifestPath("hub/org/app", "1.2")), http.StatusOK, "")
	harness.Eventually(t, "the tag is stored", func() bool { return len(w.Stored(t, "records")) > 0 })
	hub.ResetRequests()
	got := maintain(t, w, "check", "--online")
	expectResult(t, "beside a running mirror", got, 0, "98 of 100 in 6h left", "org/app:1.2", "ranges were not tried")
	for _, request := range hub.Requests() {
		if strings.HasPrefix(request, "GET /v2/org/app/manifests/") {
			t.Errorf("it cost a request of the limit: %s", request)
		}
	}
}

// --timeout bounds all checks; the results until then are printed.
func TestCheckOnlineTimeout(t *testing.T) {
	t.Parallel()
	gate := upstreamtest.NewGate()
	held, fine := upstreamtest.New(t), upstreamtest.New(t)
	fine.AddImage("org/app", "1.2")
	held.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
	got := checkOnline(t, blockOf("held", nil, at(held))+blockOf("fine", nil, at(fine)),
		"--timeout", "2s", "--image", "held/org/app:1.2", "--image", "fine/org/app:1.2", "--output", "json")
	results := byKey(t, got.stdout)
	if r := results["held"]; got.code != 1 || len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "it did not finish within 2s (--timeout)") || !r.Reachable {
		t.Errorf("exit code %d, %+v", got.code, r)
	}
	if r := results["fine"]; r.Status != "ok" {
		t.Errorf("the other one: %+v", r)
	}
}

func TestCheckOnlineInterrupted(t *testing.T) {
	t.Parallel()
	gate := upstreamtest.NewGate()
	held := upstreamtest.New(t)
	held.Fault(upstreamtest.Any, upstreamtest.Hold(gate))
	w := harness.StartWeir(t, blockOf("held", nil, at(held)))
	cmd, out := onTerminal(t, w, "check", "--online")
	arrived(t, gate, 1)
	harness.Must(t, cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	harness.Eventually(t, "it says so", func() bool { return out.Count("weir: interrupted") > 0 })
}

// A real registry with a password, looked at on a terminal.
func TestCheckOnlineRegistry(t *testing.T) {
	d := startHtpasswd(t, "reader", checkSecret)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr, Username: "reader", Password: checkSecret}
	push.PushImage(t, "org/app", "1.2", harness.NewImage(t, 1000))

	url := fmt.Sprintf("url = %q", "http://"+d.Addr)
	right := blockOf("right", nil, append(withPassword(checkSecret), url))
	wrong := blockOf("wrong", nil, append(withPassword("a-wrong-one"), url))
	w := harness.StartWeir(t, right+wrong)
	cmd, out := onTerminal(t, w, "check", "--online", "--image", "right/org/app:1.2", "--image", "wrong/org/app:1.2")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	harness.Eventually(t, "all is printed", func() bool { return out.Count("weir: upstreams that failed: 1 of 2") > 0 })
	lines := strings.Split(strings.ReplaceAll(out.String(), "\r", ""), "\n")
	for i, want := range []string{
		`BLOCK  UPSTREAM +STATUS  TIME +LOGIN +HEAD  RANGE`,
		`right  ` + d.Addr + ` +ok +\d+ ms +accepted +yes +yes`,
		`wrong  ` + d.Addr + ` +failed +\d+ ms +refused +\? +\?`,
		``,
		d.Addr + ` \(repository."right".upstream\[0\]\):`,
		`  asked for org/app:1.2`,
		``,
		d.Addr + ` \(repository."wrong".upstream\[0\]\):`,
		`  asked for org/app:1.2`,
		`  error: ` + d.Addr + ` refused the configured credentials for org/app:1.2.*`,
	} {
		if len(lines[i]) > 80 || !regexp.MustCompile(`^`+want+`$`).MatchString(lines[i]) {
			t.Errorf("line %d is\n%s\nwant\n%s", i+1, lines[i], want)
		}
	}
	if all := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(all, `Check username and password of repository."wrong".upstream[0], and that they may read it`) {
		t.Errorf("it does not say how to mend it:\n%s", out)
	}
	if strings.Contains(out.String(), checkSecret) || strings.Contains(out.String(), "a-wrong-one") {
		t.Errorf("it prints a secret:\n%s", out)
	}
}

func TestCheckOnlineUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--image app":                            "--image needs --online",
		"--output json":                          "--output needs --online",
		"--timeout 1s":                           "--timeout needs --online",
		"--online --output xml":                  `--output is "xml". It must be table or json`,
		"--online --timeout 0s":                  "--timeout is 0s. It must be greater than 0",
		"--online --image ghcr.oi/org/app":       "did you mean ghcr.io/org/app?",
		"--online --image ghcr.io/org/app:a:b:c": `--image: "ghcr.io/org/app:a:b:c" is not an image`,
	} {
		dir := t.TempDir()
		harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[[repository.\"ghcr.io\".upstream]]\nurl = \"http://127.0.0.1:1\"\n")
		if got := command(t, dir, append([]string{"check"}, strings.Fields(args)...)...); got.code != 2 || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("weir check %s: %+v, want %q", args, got, want)
		}
	}
}

// A mirror that is its own upstream answers as a registry does, and the check says that it is a mirror.
func TestCheckOnlineOfAMirror(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, block("up", upstreamtest.New(t)))
	if got := checkOnline(t, fmt.Sprintf("[[repository.\"self\".upstream]]\nurl = %q\n", w.URL)); got.code != 0 || !strings.Contains(got.stdout, "note: it is a mirror as well. Make sure that it is not this one") {
		t.Errorf("%+v", got)
	}
}
