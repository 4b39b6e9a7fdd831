package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Dependency confusion: the first upstream is private and fails in some way, and a public
// second one has an image of the same name. An immutable tag would keep it for good.
func TestDependencyConfusion(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		fault upstreamtest.Effect
		away  bool // of a class for which the default has a fallback
	}{
		{"unauthorized", upstreamtest.Status(401, ""), false},
		{"forbidden", upstreamtest.Status(403, ""), false},
		{"unknown", upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`), false},
		{"limited", upstreamtest.Status(429, ""), true},
		{"broken", upstreamtest.Status(500, ""), true},
		{"dropped", upstreamtest.Drop(), true},
	}
	public := upstreamtest.New(t)
	theirs := public.AddImage("org/app", "v1", []byte("theirs"))
	var config strings.Builder
	firsts := make([]*upstreamtest.Registry, len(cases))
	faults := make([]*upstreamtest.Fault, len(cases))
	for i, c := range cases {
		firsts[i] = upstreamtest.New(t)
		firsts[i].AddImage("org/app", "v1", []byte("ours"))
		faults[i] = firsts[i].Fault(upstreamtest.Any, c.fault)
		private := at(firsts[i], `username = "mirror"`, `password = "secret"`)
		config.WriteString(blockOf(c.name, []string{"immutable_tags = true"}, private, at(public)))
		config.WriteString(blockOf(c.name+"-strict", []string{"immutable_tags = true", "fallback_on = []"}, private, at(public)))
	}
	w := harness.StartWeir(t, config.String())
	kept := 0
	for i, c := range cases {
		for _, key := range []string{c.name, c.name + "-strict"} {
			a := w.Get(t, manifestPath(key+"/org/app", "v1"))
			served := a.Status == http.StatusOK
			if want := c.away && key == c.name; served != want {
				t.Errorf("%s: the public image was served: %v, want %v (%d %s)", key, served, want, a.Status, a.Body)
			}
			// By digest the content is verified, whichever upstream has it.
			if key == c.name {
				expect(t, key+", by digest", w.Get(t, manifestPath(key+"/org/app", theirs.Digest.String())), http.StatusOK, "")
			}
		}
		faults[i].Remove()
		if c.name == "limited" {
			continue // it is not asked for a minute
		}
		if a := w.Get(t, manifestPath(c.name+"/org/app", "v1")); a.Header.Get("Docker-Content-Digest") == theirs.Digest.String() {
			kept++
			t.Errorf("%s: the public image stays although the private upstream is back", c.name)
		}
	}
	t.Logf("%d of 5 tags keep the public image", kept)
}
