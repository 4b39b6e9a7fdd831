package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The second upstream answers for each failure of the first one.
func TestSecondUpstreamAnswers(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		fault []upstreamtest.Effect
	}{
		{"not-found", []upstreamtest.Effect{upstreamtest.Status(404, "")}},
		{"bad-name", []upstreamtest.Effect{upstreamtest.Status(400, `{"errors":[{"code":"NAME_INVALID","message":"no"}]}`)}},
		{"gone", []upstreamtest.Effect{upstreamtest.Status(410, "")}},
		{"unauthorized", []upstreamtest.Effect{upstreamtest.Status(401, "")}},
		{"forbidden", []upstreamtest.Effect{upstreamtest.Status(403, "")}},
		{"limited", []upstreamtest.Effect{upstreamtest.Status(429, "slow down"), upstreamtest.Header("Retry-After", "7")}},
		{"broken", []upstreamtest.Effect{upstreamtest.Status(500, "")}},
		{"dropped", []upstreamtest.Effect{upstreamtest.Drop()}},
		{"corrupt", []upstreamtest.Effect{upstreamtest.Corrupt(20)}},
		{"cut", []upstreamtest.Effect{upstreamtest.CutAfter(20)}},
	}
	var config strings.Builder
	firsts := make([]*upstreamtest.Registry, len(cases))
	images := make([]digest.Digest, len(cases)) // one for each case, since content is shared
	second := upstreamtest.New(t)
	for i, c := range cases {
		firsts[i] = upstreamtest.New(t)
		firsts[i].AddImage("org/app", "v1", []byte(c.name))
		images[i] = second.AddImage("org/app", "v1", []byte(c.name)).Digest
		firsts[i].Fault(upstreamtest.Any, c.fault...)
		config.WriteString(blockOf(c.name, nil, at(firsts[i]), at(second)))
	}
	refused := upstreamtest.New(t)
	refused.Close()
	last := second.AddImage("org/app", "v1", []byte("a layer")).Digest
	config.WriteString(blockOf("refused", nil, at(refused), at(second)))
	w := harness.StartWeir(t, config.String())

	for i, c := range cases {
		a := w.Get(t, manifestPath(c.name+"/org/app", images[i].String()))
		expectContent(t, c.name, a, images[i], statusStored)
		if len(firsts[i].Requests()) == 0 {
			t.Errorf("%s: the first upstream was not asked", c.name)
		}
		firsts[i].ResetRequests()
		expectWire(t, second, c.name, "GET "+manifestPath("org/app", images[i].String())+" 200")
	}
	expectContent(t, "refused", w.Get(t, manifestPath("refused/org/app", last.String())), last, statusStored)

	// One that limits us is left alone for as long as it asks for.
	expect(t, "limited", w.Get(t, manifestPath("limited/org/app", "v1")), http.StatusOK, "")
	expectWire(t, firsts[5], "limited")
	if got := w.Metric(t, "weir_upstream_cooldown", "upstream", firsts[5].Host); got != 1 {
		t.Errorf("weir_upstream_cooldown is %v", got)
	}
}

// When all upstreams fail, the client learns of the most hopeful failure.
func TestFailuresOnTheWire(t *testing.T) {
	t.Parallel()
	status := func(status int) upstreamtest.Effect { return upstreamtest.Status(status, "") }
	cases := []struct {
		name          string
		first, second upstreamtest.Effect
		status        int
		code          string
	}{
		{"missing", status(404), status(404), 404, "MANIFEST_UNKNOWN"},
		{"bad-name", status(404), upstreamtest.Status(400, `{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}`), 404, "MANIFEST_UNKNOWN"},
		{"gone", status(410), status(404), 404, "MANIFEST_UNKNOWN"},
		{"own-code", upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}`), status(404), 404, "NAME_UNKNOWN"},
		{"denied", status(403), status(403), 403, "DENIED"},
		{"denied-401", status(401), status(404), 403, "DENIED"},
		{"missing-denied", status(404), status(403), 403, "DENIED"},
		{"missing-broken", status(404), status(500), 502, "UNAVAILABLE"},
		{"denied-broken", status(403), status(503), 502, "UNAVAILABLE"},
		{"dropped", upstreamtest.Drop(), status(404), 502, "UNAVAILABLE"},
		{"limited", status(429), status(429), 429, "TOOMANYREQUESTS"},
		{"limited-missing", status(429), status(404), 429, "TOOMANYREQUESTS"},
		{"limited-broken", status(500), status(429), 429, "TOOMANYREQUESTS"},
	}
	var config strings.Builder
	for _, c := range cases {
		first, second := upstreamtest.New(t), upstreamtest.New(t)
		first.Fault(upstreamtest.Any, c.first)
		second.Fault(upstreamtest.Any, c.second)
		config.WriteString(blockOf(c.name, nil, at(first), at(second)))
	}
	w := harness.StartWeir(t, config.String())
	for _, c := range cases {
		a := w.Get(t, manifestPath(c.name+"/org/app", "v1"))
		expect(t, c.name, a, c.status, "")
		if a.ErrorCode() != c.code {
			t.Errorf("%s: %s, want code %s", c.name, a.Body, c.code)
		}
		if limited := a.Header.Get("Retry-After") != ""; limited != (c.status == 429) {
			t.Errorf("%s: Retry-After %q", c.name, a.Header.Get("Retry-After"))
		}
	}
}

// A definite "not found" is remembered for negative_ttl, and only that.
func TestNotFoundIsRemembered(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("long", upstream, `negative_ttl = "1h"`)+block("off", upstream, `negative_ttl = "0s"`))
	for range 2 {
		expect(t, "remembered", w.Get(t, manifestPath("long/org/app", "v1")), http.StatusNotFound, "")
	}
	expectWire(t, upstream, "remembered", "GET /v2/org/app/manifests/v1 404")
	for range 2 {
		expect(t, "not remembered", w.Get(t, manifestPath("off/org/app", "v1")), http.StatusNotFound, "")
	}
	expectWire(t, upstream, "not remembered", "GET /v2/org/app/manifests/v1 404", "GET /v2/org/app/manifests/v1 404")
}
