package tests

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// statusOverdue is the Cache-Status of a tag that is checked behind its answer.
var statusOverdue = regexp.MustCompile(`^weir; hit; ttl=-[1-9][0-9]*$`)

// A client never waits for the check of a tag within tag_swr. What the check finds is the
// next answer.
func TestTagSWR(t *testing.T) {
	t.Parallel()
	hub := upstreamtest.New(t)
	old := hub.AddImage("org/app", "v1", []byte("old"))
	w := harness.StartWeir(t, "[global]\ntag_swr = \"1h\"\n"+block("mirror", hub)+blockOf("checked", []string{`tag_swr = "0s"`}, at(hub)))
	path := manifestPath("mirror/org/app", "v1")
	expectContent(t, "not cached", w.Get(t, path), old.Digest, statusStored)
	overdue := func(label, method string, want digest.Digest) {
		t.Helper()
		a := w.Do(t, method, path)
		expect(t, label, a, http.StatusOK, "")
		if got := a.Header.Get("Docker-Content-Digest"); got != want.String() {
			t.Errorf("%s: %s, want %s", label, got, want)
		}
		if got := a.Header.Get("Cache-Status"); !statusOverdue.MatchString(got) || a.Header.Get("Age") == "" || a.Header.Get("Warning") != "" {
			t.Errorf("%s: Cache-Status %q, Age %q, Warning %q", label, got, a.Header.Get("Age"), a.Header.Get("Warning"))
		}
	}
	checks := func(result string, n float64) {
		t.Helper()
		w.MetricIs(t, n, "weir_tag_checks_behind_total", "namespace", "mirror", "result", result)
	}
	hub.ResetRequests()
	overdue("confirmed", http.MethodGet, old.Digest)
	checks("confirmed", 1)
	expectWire(t, hub, "confirmed", "HEAD /v2/org/app/manifests/v1 200")
	w.Logs(t, `"overdue_s":`)

	// The check hangs, and no client does.
	moved := hub.AddImage("org/app", "v1", []byte("new"))
	gate := upstreamtest.NewGate()
	fault := hub.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
	for range 5 {
		overdue("during the check", http.MethodGet, old.Digest)
		overdue("HEAD during the check", http.MethodHead, old.Digest)
	}
	fault.Remove()
	gate.Open()
	checks("moved", 1)
	expectWire(t, hub, "moved", "HEAD /v2/org/app/manifests/v1 200", "GET /v2/org/app/manifests/"+moved.Digest.String()+" 200")
	overdue("moved", http.MethodHead, moved.Digest)
	checks("confirmed", 2)
	expectContent(t, "by digest", w.Get(t, manifestPath("mirror/org/app", moved.Digest.String())), moved.Digest, statusHit)

	// A failure is the next answer, and the first answer after it is over.
	fault = hub.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
	overdue("before the failure is known", http.MethodGet, moved.Digest)
	checks("failed", 1)
	expectContent(t, "failed", w.Get(t, path), moved.Digest, statusStale)
	checks("failed", 2)
	fault.Remove()
	expectContent(t, "before the return is known", w.Get(t, path), moved.Digest, statusStale)
	checks("confirmed", 3)
	overdue("back", http.MethodGet, moved.Digest)
	checks("confirmed", 4)

	// A block may go its own way.
	hub.ResetRequests()
	checked := manifestPath("checked/org/app", "v1")
	expectContent(t, "another block", w.Get(t, checked), moved.Digest, statusStored)
	expectContent(t, "another block", w.Get(t, checked), moved.Digest, statusRevalidated)
}
