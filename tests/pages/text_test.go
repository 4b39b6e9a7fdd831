package pages

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Text of strangers is shown as text. It runs nothing, adds no element, and turns no other text
// around.
func TestHostileTextIsText(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	m.steer(t)
	for _, v := range m.views() {
		b.open(m.URL+v.path, v.status)
		if title := evaluate[string](b, "document.title"); title == "run" {
			t.Errorf("%s: a stranger's script has run", v.name)
		}
		if n := evaluate[int](b, `document.querySelectorAll("main script, main style, main iframe, main img, [onerror]").length`); n != 0 {
			t.Errorf("%s: %d elements are a stranger's", v.name, n)
		}
		turned := evaluate[[]string](b, `(() => {
			const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
			while (walk.nextNode()) {
				if (/[\u202a-\u202e\u2066-\u2069]/.test(walk.currentNode.data)) found.push(walk.currentNode.data.slice(0, 200));
			}
			return found;
		})()`)
		if len(turned) > 0 {
			t.Errorf("%s: these texts can turn others around: %q", v.name, turned)
		}
		if size := evaluate[int](b, "document.body.textContent.length"); size > 64<<10 {
			t.Errorf("%s has a text of %d characters", v.name, size)
		}
	}
	b.open(m.URL+address("/image", "name", repo, "tag", "v1"), http.StatusOK)
	if text := evaluate[string](b, "document.body.textContent"); strings.Count(text, "<script>") < 3 {
		t.Errorf("the hostile label and type are not shown: %s", text)
	}
}

// A repository of 10,000 tags has pages of a bounded length, which lead to all tags.
func TestManyTags(t *testing.T) {
	t.Parallel()
	chromium.start(t)
	const tags = 10_000
	upstream, dir := upstreamtest.New(t), t.TempDir()
	upstream.AddImage("acme/many", "t00000", []byte("many"))
	first := harness.StartWeirIn(t, dir, config(upstream))
	if a := first.Get(t, "/v2/up/acme/many/manifests/t00000"); a.Status != http.StatusOK {
		t.Fatalf("the first tag: %d %s", a.Status, a.Body)
	}
	if code := first.Terminate(t); code != 0 {
		t.Fatalf("the mirror ended with %d", code)
	}
	plantTags(t, first.Data, tags)
	mirror := harness.StartWeirIn(t, dir, config(upstream))
	b := newTab(t)
	b.open(mirror.URL+address("/repository", "name", "up/acme/many"), http.StatusOK)
	for page := range 3 {
		b.wait(fmt.Sprintf(`document.querySelector("main tbody th")?.innerText === "t%05d"`, page*50))
		if n := evaluate[int](b, `document.querySelectorAll("*").length`); n > 3000 {
			t.Fatalf("page %d has %d elements", page, n)
		}
		if text := evaluate[string](b, "document.body.textContent"); !strings.Contains(text, "10,000") {
			t.Errorf("the page does not tell of 10,000 tags: %.2000s", text)
		}
		b.click(`a[rel="next"]`)
	}
}

// plantTags gives the only repository of a store many tags of its only image.
func plantTags(t *testing.T, root string, tags int) {
	t.Helper()
	store, err := disk.Open(root, disk.Options{})
	harness.Must(t, err)
	defer func() { harness.Must(t, store.Close()) }()
	known := catalog.New(store.Records(), catalog.Options{})
	repos, err := known.Repositories(t.Context())
	if err != nil || len(repos) != 1 {
		t.Fatalf("the store has the repositories %v: %v", repos, err)
	}
	like, err := known.Tag(t.Context(), repos[0], "t00000")
	harness.Must(t, err)
	for i := range tags {
		harness.Must(t, known.PutTag(t.Context(), repos[0], fmt.Sprintf("t%05d", i), like))
	}
}
