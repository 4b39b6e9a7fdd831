package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

// checked holds the fields of a check that scripts read.
type checked struct {
	Status, Authentication string
	Reachable              bool
	Head, Range            *bool
	Skew                   *int64     `json:"clock_skew_seconds"`
	Expires                *time.Time `json:"certificate_expires"`
	Errors, Remarks        []string
}

// faulty is an upstream that is checked, and the result that its check must
// have.
type faulty struct {
	options  []upstreamtest.Option
	fault    func(*upstreamtest.Registry)
	settings func(*upstreamtest.Registry) []string
	url      func(*upstreamtest.Registry) string // nil: its own
	status   string
	login    string
	said     string // a part of the only error or remark; "": there is none
}

func (f faulty) block(t *testing.T, key string) string {
	t.Helper()
	r := upstreamtest.New(t, f.options...)
	r.AddImage("org/app", "1.2", []byte("a layer"))
	if f.fault != nil {
		f.fault(r)
	}
	upstream := at(r)
	if f.url != nil {
		upstream = []string{fmt.Sprintf("url = %q", f.url(r))}
	}
	if f.settings != nil {
		upstream = append(upstream, f.settings(r)...)
	}
	return blockOf(key, nil, upstream)
}

// faults are the upstreams of one configuration, by the keys of their blocks.
var faults = map[string]faulty{
	"fine":     {status: "ok", login: "anonymous"},
	"password": {options: basic(), settings: withLines(withPassword(checkSecret)...), status: "ok", login: "accepted"},
	"wrong": {
		options: basic(), settings: withLines(withPassword("a-wrong-one")...), status: "failed", login: "refused",
		said: `refused the configured credentials for org/app:1.2 (401 Unauthorized: UNAUTHORIZED: authentication required). Check username and password of repository."wrong".upstream[0]`,
	},
	"private":  {options: basic(), status: "failed", login: "refused", said: `set username and password of repository."private".upstream[0]`},
	"no-head":  {fault: always(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), upstreamtest.Status(405, "")), status: "ok", login: "anonymous", said: "it refuses HEAD"},
	"head-404": {fault: always(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), upstreamtest.Status(404, "")), status: "ok", login: "anonymous", said: "it refuses HEAD"},
	"page":     {fault: always(upstreamtest.Any, upstreamtest.Status(404, "<html>")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."page".upstream[0]`},
	"ingress":  {fault: always(upstreamtest.Any, upstreamtest.Status(404, "default backend - 404")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."ingress".upstream[0]`},
	"website":  {fault: always(upstreamtest.Any, upstreamtest.Status(200, "<html>"), upstreamtest.Header("Content-Type", "text/html")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."website".upstream[0]`},
	"tls-port": {fault: always(upstreamtest.Any, upstreamtest.Status(400, "Client sent an HTTP request to an HTTPS server.")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."tls-port".upstream[0]`},
	"bucket":   {fault: always(upstreamtest.Any, upstreamtest.Status(403, "<?xml?><Error><Code>AccessDenied</Code></Error>")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."bucket".upstream[0]`},
	"api":      {fault: always(upstreamtest.Any, upstreamtest.Status(200, `{"status":"ok"}`)), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."api".upstream[0]`},
	"login": {
		fault: func(r *upstreamtest.Registry) {
			r.Fault(func(req *http.Request) bool { return strings.HasPrefix(req.URL.Path, "/v2/") }, upstreamtest.Status(302, ""), upstreamtest.Header("Location", "/login"))
			r.Fault(upstreamtest.Path("/login"), upstreamtest.Status(200, "<html>Log in</html>"), upstreamtest.Header("Content-Type", "text/html"))
		},
		status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."login".upstream[0]`,
	},
	"nothing":  {fault: always(upstreamtest.Any, upstreamtest.Status(404, "")), status: "failed", login: "unknown", said: `is not that of a registry. Check url of repository."nothing".upstream[0]`},
	"other":    {fault: always(upstreamtest.Manifests, upstreamtest.Status(400, `{"errors":[{"code":"UNSUPPORTED"}]}`)), status: "failed", login: "unknown", said: "could not deliver org/app:1.2 (400 Bad Request: UNSUPPORTED)"},
	"no-range": {fault: always(upstreamtest.Blobs, upstreamtest.IgnoreRange()), status: "ok", login: "anonymous", said: "it ignores ranges"},
	"clock": {
		fault:  func(r *upstreamtest.Registry) { always(upstreamtest.Any, upstreamtest.Header("Date", inAnHour()))(r) },
		status: "ok", login: "anonymous", said: "this machine's. Check NTP on this machine",
	},
	"limited": {
		fault:  always(upstreamtest.Manifests, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "90")),
		status: "failed", login: "unknown", said: "allows no more requests until",
	},
	"gone":    {fault: func(r *upstreamtest.Registry) { r.Untag("org/app", "1.2") }, status: "ok", login: "unknown", said: "Name an existing image with --image"},
	"broken":  {fault: always(upstreamtest.Any, upstreamtest.Status(500, "database is down")), status: "failed", login: "unknown", said: "500 Internal Server Error: database is down"},
	"refused": {fault: (*upstreamtest.Registry).Close, status: "failed", login: "unknown", said: `Nothing listens there. Check url of repository."refused".upstream[0]`},
	"silent": {
		fault: always(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate())), settings: withLines("read_timeout_secs = 1"),
		status: "failed", login: "unknown", said: `raise connect_timeout_secs or read_timeout_secs of repository."silent".upstream[0]`,
	},
	"authority": {
		options: []upstreamtest.Option{upstreamtest.WithTLS()}, status: "failed", login: "unknown",
		said: `certificate signed by unknown authority. If its authority is your own, write its certificate into server_ca_bundle of repository."authority".upstream[0]`,
	},
	"bundle": {
		options: []upstreamtest.Option{upstreamtest.WithTLS()},
		settings: func(r *upstreamtest.Registry) []string {
			return []string{fmt.Sprintf("server_ca_bundle = %q", r.CAFile())}
		},
		status: "ok", login: "anonymous",
	},
	"plain": {
		url:    func(r *upstreamtest.Registry) string { return "https://" + r.Host },
		status: "failed", login: "unknown", said: `url of repository."plain".upstream[0] should begin with http://`,
	},
	"proxy": {
		settings: withLines(`proxy = "http://reader:` + checkSecret + `@127.0.0.1:1"`),
		status:   "failed", login: "unknown", said: `Check proxy of repository."proxy".upstream[0]`,
	},
}

func basic() []upstreamtest.Option {
	return []upstreamtest.Option{upstreamtest.WithBasic("reader", checkSecret)}
}

func withLines(lines ...string) func(*upstreamtest.Registry) []string {
	return func(*upstreamtest.Registry) []string { return lines }
}

func always(match upstreamtest.Match, effects ...upstreamtest.Effect) func(*upstreamtest.Registry) {
	return func(r *upstreamtest.Registry) { r.Fault(match, effects...) }
}

func inAnHour() string { return time.Now().Add(time.Hour).UTC().Format(http.TimeFormat) }

// Each fault is reported for the upstream that has it, and for no other.
func TestCheckOnlineFaults(t *testing.T) {
	t.Parallel()
	var blocks strings.Builder
	args := []string{"--output", "json"}
	failed := 0
	for key, f := range faults {
		blocks.WriteString(f.block(t, key))
		args = append(args, "--image", key+"/org/app:1.2")
		if f.status == "failed" {
			failed++
		}
	}
	got := checkOnline(t, blocks.String(), args...)
	if want := fmt.Sprintf("weir: upstreams that failed: %d of %d\n", failed, len(faults)); got.code != 1 || got.stderr != want {
		t.Errorf("exit code %d, stderr %q, want 1, %q", got.code, got.stderr, want)
	}
	results := byKey(t, got.stdout)
	for key, f := range faults {
		r := results[key]
		said := append(r.Errors, r.Remarks...)
		if r.Status != f.status || r.Authentication != f.login || (f.said == "") != (len(said) == 0) || len(said) > 1 || len(said) == 1 && !strings.Contains(said[0], f.said) {
			t.Errorf("%s: %+v, want %s, %s, %q", key, r, f.status, f.login, f.said)
		}
		reached := key != "refused" && key != "silent" && key != "authority" && key != "plain" && key != "proxy"
		if r.Reachable != reached {
			t.Errorf("%s: reachable is %t", key, r.Reachable)
		}
	}
	isFalse := func(b *bool) bool { return b != nil && !*b }
	if !isFalse(results["no-head"].Head) || !isFalse(results["no-range"].Range) || isFalse(results["fine"].Head) || isFalse(results["fine"].Range) {
		t.Errorf("HEAD and ranges: %s", got.stdout)
	}
	if skew := results["clock"].Skew; skew == nil || *skew < 3500 {
		t.Errorf("a clock an hour ahead is off by %v", skew)
	}
	if results["bundle"].Expires == nil {
		t.Error("a certificate has no end")
	}
}

// byKey returns the results by the keys of their only blocks.
func byKey(t *testing.T, document string) map[string]checked {
	t.Helper()
	var all []struct {
		checked
		Keys []string
	}
	if err := json.Unmarshal([]byte(document), &all); err != nil {
		t.Fatalf("%v in %s", err, document)
	}
	results := make(map[string]checked)
	for _, r := range all {
		results[strings.Split(strings.Join(r.Keys, " "), `"`)[1]] = r.checked
	}
	return results
}
