package pages

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Each page is accessible and fits its window, whether it is narrow or wide, light or dark, with
// scripts or without.
func TestPagesAreAccessible(t *testing.T) {
	m := startMirror(t)
	m.steer(t)
	views := m.views()
	t.Run("complete", func(t *testing.T) { m.expectComplete(t, views) })
	half := len(views) / 2
	for i, part := range [][]view{views[:half], views[half:]} {
		t.Run(fmt.Sprintf("part %d", i+1), func(t *testing.T) {
			t.Parallel()
			look(t, m.URL, part)
		})
	}
}

// Pages of a mirror that has nothing yet are accessible too.
func TestPagesOfAnEmptyMirror(t *testing.T) {
	t.Parallel()
	chromium.start(t)
	empty := harness.StartWeir(t, config(upstreamtest.New(t)))
	look(t, empty.URL, []view{
		{"empty-overview", "/", 200}, {"empty-repositories", "/repositories", 200}, {"empty-pins", "/pins", 200},
		{"empty-activity", "/activity", 200}, {"empty-upstreams", "/upstreams", 200},
	})
}

// steer gives each page something to show: a pin, a report about the upstreams, and a download
// that stands still.
func (m *mirror) steer(t *testing.T) {
	t.Helper()
	for _, form := range []struct{ path, image string }{{"/pin", repo + ":v1"}, {"/pin", "up/acme/tool:" + m.longTag}, {"/upstreams", ""}} {
		if status := m.send(t, form.path, form.image); status != http.StatusSeeOther {
			t.Fatalf("%s: %d", form.path, status)
		}
	}
	gate := upstreamtest.NewGate()
	blob := m.upstream.AddRandomBlob("acme/app", 4<<20, 7)
	m.upstream.Fault(upstreamtest.Path(blob.String()), upstreamtest.StallAfter(1<<20, gate))
	pull := m.Pull(t, "/v2/"+repo+"/blobs/"+blob.String())
	t.Cleanup(func() {
		gate.Open()
		pull.Wait(t)
	})
}

// send sends a form, as a page has it, and returns the status of the answer.
func (m *mirror) send(t *testing.T, path, image string, headers ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL+path, strings.NewReader(url.Values{"image": {image}}.Encode()))
	harness.Must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	harness.Must(t, err)
	resp.Body.Close()
	return resp.StatusCode
}

// expectComplete fails the test unless each page that the navigation leads to is among the views.
func (m *mirror) expectComplete(t *testing.T, views []view) {
	t.Helper()
	b := newTab(t)
	b.open(m.URL, http.StatusOK)
	for _, path := range evaluate[[]string](b, `[...document.querySelectorAll("header nav a")].map(a => a.getAttribute("href"))`) {
		if !slices.ContainsFunc(views, func(v view) bool { return v.path == path || strings.HasPrefix(v.path, path+"?") }) {
			t.Errorf("no view looks at %s", path)
		}
	}
}

// look opens pages in all windows, and looks for faults.
func look(t *testing.T, mirror string, views []view) {
	t.Helper()
	b, axe := newTab(t), readAxe(t)
	for _, v := range views {
		for _, scripts := range []bool{true, false} {
			b.scripts(scripts)
			b.open(mirror+v.path, v.status)
			if title := evaluate[string](b, "document.title"); !strings.HasSuffix(title, "· Mirror of Acme") {
				t.Errorf("%s: the title is %q", v.name, title)
			}
			if text := evaluate[string](b, "document.body.textContent"); strings.Contains(text, "%!") || strings.Contains(text, "<nil>") {
				t.Errorf("%s has a text that Go could not format: %s", v.name, text)
			}
			b.scripts(true) // axe is one; those of the page do not run any more
			b.do(chromedp.Evaluate[chromedp.Void](axe))
			for _, scheme := range []string{"light", "dark"} {
				for _, width := range []int64{360, 1280} {
					b.window(width, scheme)
					b.expectFits(v.name, width)
					b.expectAccessible(fmt.Sprintf("%s, %s, %d wide, scripts: %t", v.name, scheme, width, scripts))
					if *pictures != "" && scripts {
						b.picture(filepath.Join(*pictures, fmt.Sprintf("%s-%d-%s.png", v.name, width, scheme)))
					}
				}
			}
		}
	}
}

// expectFits fails the test if a page is wider than its window.
func (b *tab) expectFits(name string, width int64) {
	b.t.Helper()
	wide := evaluate[[]string](b, `(() => {
		const room = document.documentElement.clientWidth;
		if (document.documentElement.scrollWidth <= room) return [];
		const fits = e => e.getBoundingClientRect().right <= room && e.scrollWidth <= e.clientWidth || e.closest(".wide, pre");
		return ["the document", ...[...document.querySelectorAll("body *")].filter(e => !fits(e)).map(e => e.outerHTML.slice(0, 200))];
	})()`)
	if len(wide) > 0 {
		b.t.Errorf("%s does not fit into %d pixels: %q", name, width, wide[:min(3, len(wide))])
	}
}

// expectAccessible fails the test if axe finds a fault.
func (b *tab) expectAccessible(name string) {
	b.t.Helper()
	for _, one := range evaluate[[]fault](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations)`) {
		b.t.Errorf("%s: %s", name, one)
	}
}
