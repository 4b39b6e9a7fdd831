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
	if got := w.Metric(t, "weir_upstream_cooldown", "upstream", firsts[5].Host, "operation", "manifest"); got != 1 {
		t.Errorf("weir_upstream_cooldown is %v", got)
	}
}
