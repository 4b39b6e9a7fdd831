package pages

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/tests/harness"
)

// The list of tags has the size of each image. The page of an index tells the size of its cached
// platforms, and how many others it does not know, and that of each platform.
func TestSizes(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	sizeOf := func(name, tag string) string {
		var document struct{ Sizes map[string]int64 }
		a := m.Get(t, "/api/v1/repositories/"+strings.ReplaceAll(name, "/", "%2F")+"/tags?sizes=true")
		if err := json.Unmarshal(a.Body, &document); err != nil {
			t.Fatalf("%d %s: %v", a.Status, a.Body, err)
		}
		if document.Sizes[tag] == 0 {
			t.Fatalf("%s:%s has no size: %v", name, tag, document.Sizes)
		}
		return units.IEC(document.Sizes[tag])
	}
	list := func(name string) string {
		b.open(m.URL+address("/repository", "name", name), http.StatusOK)
		return evaluate[string](b, `[...document.querySelectorAll("tbody tr")].map(row => [...row.cells].filter((c, i) => i % 2 == 0).slice(0, 2).map(c => c.innerText.trim()).join(" ")).join("\n")`)
	}
	// A page does not wait for sizes. On a slow machine, they are there when it is loaded again.
	want := "multi " + sizeOf(repo, "multi") + "\nv1 " + sizeOf(repo, "v1")
	harness.Eventually(t, "the sizes of tags, "+want, func() bool { return strings.HasPrefix(list(repo), want) })

	facts := func(dgst digest.Digest) string {
		b.open(m.URL+address("/image", "name", repo, "digest", dgst.String()), http.StatusOK)
		return evaluate[string](b, `document.querySelector("main").innerText`)
	}
	if text := facts(m.multi); !strings.Contains(text, "Size of the cached platforms\n"+sizeOf(repo, "multi")+" without 2 manifests of which the size is not known") {
		t.Errorf("the page of an index of which no platform is cached: %s", text)
	}
	a := m.Get(t, "/v2/"+repo+"/manifests/"+m.amd64.String())
	if a.Status != http.StatusOK {
		t.Fatalf("the platform: %d %s", a.Status, a.Body)
	}
	if text := facts(m.multi); !strings.Contains(text, "Size of the cached platforms\n"+sizeOf(repo, "multi")+" without 1 manifest of which the size is not known") {
		t.Errorf("the page of an index with one cached platform: %s", text)
	}
	if text := facts(m.image); !strings.Contains(text, "Size\n"+sizeOf(repo, "v1")+"\n") {
		t.Errorf("the page of an image: %s", text)
	}
}
