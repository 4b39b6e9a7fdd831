package tests

import (
	"fmt"
	"net/http"
	"regexp"
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

// A client claims by its Via to come from the private mirror that is asked first. That one
// refuses the request as a loop, and a public registry names the tag. The answer is the
// client's alone: before, all others got it for tag_ttl.
func TestForgedLoopConfusesNoOther(t *testing.T) {
	t.Parallel()
	private, public := upstreamtest.New(t), upstreamtest.New(t)
	ours := private.AddImage("org/app", "v1", []byte("ours"))
	theirs := public.AddImage("org/app", "v1", []byte("theirs"))
	central := harness.StartWeir(t, block("private", private))
	expect(t, "the mirror shows its ID", central.Get(t, manifestPath("private/org/app", "v1")), http.StatusOK, "")
	id := regexp.MustCompile(`weir-\w+`).FindString(private.Log()[0].Header.Get("Via"))
	var config strings.Builder
	ways := []string{"get", "head"}
	for _, way := range ways {
		config.WriteString(blockOf(way, []string{`tag_ttl = "1h"`, `fallback_on = ["unavailable"]`},
			[]string{fmt.Sprintf("url = %q", central.URL+"/private")}, at(public)))
	}
	w := harness.StartWeir(t, config.String())
	for _, way := range ways {
		path, forged := manifestPath(way+"/org/app", "v1"), []string{"Via", "1.1 " + id}
		if way == "head" { // as docker asks
			expect(t, "the forged HEAD", w.Do(t, http.MethodHead, path, forged...), http.StatusOK, "")
			expectContent(t, "and its GET", w.Get(t, manifestPath(way+"/org/app", theirs.Digest.String()), forged...), theirs.Digest, "")
		}
		expectContent(t, "the forged GET", w.Get(t, path, forged...), theirs.Digest, "")
		expectContent(t, "another client", w.Get(t, path), ours.Digest, "")
	}
}
