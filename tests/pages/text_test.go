package pages

import (
	"net/http"
	"strings"
	"testing"
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
				if (/[\u202a-\u202e\u2066-\u2069]/.test(walk.currentNode.data) && !walk.currentNode.parentElement.closest("bdi")) found.push(walk.currentNode.data.slice(0, 200));
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
