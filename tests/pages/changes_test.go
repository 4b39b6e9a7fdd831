package pages

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A download moves its bar while the page is open, and ends without a reload.
func TestDownloadMovesItsBar(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	const size, cut = 8 << 20, 6 << 20
	blob := m.upstream.AddRandomBlob("acme/big", size, 1)
	first, second := upstreamtest.NewGate(), upstreamtest.NewGate()
	// The download stands still at 2 MiB, and once more when it goes on at 6 MiB.
	m.upstream.Fault(upstreamtest.Path(blob.String()), upstreamtest.StallAfter(2<<20, first), upstreamtest.CutAfter(cut)).Times(1)
	resumed := func(r *http.Request) bool { return r.Header.Get("Range") != "" }
	m.upstream.Fault(upstreamtest.All(upstreamtest.Path(blob.String()), resumed), upstreamtest.Hold(second))
	b.open(m.URL, http.StatusOK)
	evaluate[bool](b, "window.stays = true")
	pull := m.Pull(t, "/v2/up/acme/big/blobs/"+blob.String())
	const bar = `document.querySelector("#downloads progress")`
	b.wait(bar + "?.value > 0")
	before := evaluate[float64](b, bar+".value")
	first.Open()
	b.wait(fmt.Sprintf("%s?.value > %v", bar, before))
	second.Open()
	b.wait(bar + " === null")
	if !evaluate[bool](b, "Boolean(window.stays)") {
		t.Error("the page was loaded again")
	}
	pull.Whole(t, "the blob", blob)
}

// The button of a page takes an image out of the cache, and the next pull fetches it again.
func TestRemoveByButton(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	const tag = "/v2/" + repo + "/manifests/multi"
	m.upstream.ResetRequests()
	b.open(m.URL+address("/image", "name", repo, "tag", "multi"), http.StatusOK)
	b.click("details:has(form[action='/remove']) summary")
	b.click("form[action='/remove'] button")
	b.wait(`document.querySelector(".notice")?.innerText.includes("was removed from the cache")`)
	if text := evaluate[string](b, "document.querySelector('main').innerText"); strings.Contains(text, "multi") || !strings.Contains(text, "v1") {
		t.Errorf("the list of the tags is\n%s", text)
	}
	if sent := m.upstream.Requests(); len(sent) > 0 {
		t.Errorf("before the pull, the upstream was asked %q", sent)
	}
	if a := m.Get(t, tag); a.Status != http.StatusOK {
		t.Errorf("the next pull: %d %s", a.Status, a.Body)
	}
	if sent := strings.Join(m.upstream.Requests(), "\n"); !strings.Contains(sent, "GET /v2/acme/app/manifests/") {
		t.Errorf("the next pull asks the upstream %q", sent)
	}
}

// The buttons of a page refresh a tag, pin an image and end the pin. They need no scripts.
func TestButtonsWithoutScripts(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	b.scripts(false)
	m.upstream.AddImage("acme/app", "v1", []byte("moved"))
	page := m.URL + address("/image", "name", repo, "tag", "v1")
	for _, step := range []struct{ button, notice string }{{"refresh", "has moved"}, {"pin", "is pinned"}, {"unpin", "no longer pinned"}} {
		b.open(page, http.StatusOK)
		b.click("form[action='/" + step.button + "'] button")
		b.wait(fmt.Sprintf(`document.querySelector(".notice")?.innerText.includes(%q)`, step.notice))
	}
}

// Forms of other sites change nothing.
func TestFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	m.upstream.ResetRequests()
	if status := m.send(t, "/refresh", repo+":v1", "Origin", "http://other.example", "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden || len(m.upstream.Requests()) > 0 {
		t.Errorf("a form of another site: %d, and the upstream was asked %q", status, m.upstream.Requests())
	}
}

// Without scripts, copy buttons are hidden. With them, a button copies the whole digest.
func TestCopyButtons(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	page := m.URL + address("/image", "name", repo, "digest", m.image.String())
	b.scripts(false)
	b.open(page, http.StatusOK)
	if n := evaluate[int](b, `[...document.querySelectorAll("button.copy")].filter(b => b.checkVisibility()).length`); n != 0 {
		t.Errorf("without scripts, %d copy buttons are shown", n)
	}
	b.scripts(true)
	b.open(page, http.StatusOK)
	evaluate[bool](b, `navigator.clipboard.writeText = async (text) => { window.copied = text; }, true`)
	b.click(".facts button.copy")
	b.wait("window.copied")
	if copied := evaluate[string](b, "window.copied"); copied != m.image.String() {
		t.Errorf("copied %q, want %q", copied, m.image)
	}
}

// The form that makes the block of a registry names the field of a mistake, and shows typed
// values as text. It is accessible in each state.
func TestAddRegistry(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	b.open(m.URL+address("/add-registry", "kind", "private"), http.StatusOK)
	b.mu.Lock()
	b.failing = m.URL + "/add-registry" // the answer to a mistake
	b.mu.Unlock()
	b.fill("url", "https://127.0.0.1:1")
	b.fill("key", hostile)
	b.click("form.fields button[value='try']")
	b.wait(`document.querySelector("[aria-invalid]")?.id === "key"`)
	if typed := evaluate[string](b, `document.querySelector("#key").value`); typed != hostile {
		t.Errorf("the field has %q", typed)
	}
	b.expectText("with a mistake")
	b.fill("key", "private.example")
	b.click("form.fields button[value='try']")
	b.wait(`document.querySelector("#block") && document.querySelector("#trial")`)
	if text := evaluate[string](b, "document.querySelector('main').innerText"); !strings.Contains(text, `[repository."private.example"]`) || !strings.Contains(text, "does not work") {
		t.Errorf("the block and the trial are\n%s", text)
	}
	b.expectText("with a trial")
}

// A registry is added, listed and removed by buttons, which need no scripts.
func TestAddAndRemoveRegistry(t *testing.T) {
	t.Parallel()
	chromium.start(t)
	upstream, dir := upstreamtest.New(t), t.TempDir()
	harness.Must(t, os.Chmod(dir, 0o700))
	settings := fmt.Sprintf("[ui]\nedit_dir = %q\nallow_private_registries = true\n", dir)
	m, b := harness.StartWeir(t, strings.Replace(config(upstream), "[ui]\n", settings, 1)), newTab(t)
	b.open(m.URL+address("/add-registry", "kind", "private"), http.StatusOK)
	b.fill("url", upstream.URL.String())
	b.fill("key", "a-private-registry.of-a-long-name.example.com")
	b.click("form.fields button[value='add']")
	b.wait(`document.querySelector(".notice")?.innerText.includes("is in force")`)
	b.expectText("with an added registry")
	b.scripts(false)
	b.click("details:has(form[action='/remove-registry']) summary")
	b.click("form[action='/remove-registry'] button")
	b.wait(`document.querySelector(".notice")?.innerText.includes("was removed")`)
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("%v %v", files, err)
	}
}

// fill replaces the value of a field.
func (b *tab) fill(id, value string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS("#"+id), value))
}

// expectText fails the test if a page is not accessible, does not fit, or has run a stranger's
// script.
func (b *tab) expectText(state string) {
	b.t.Helper()
	if title := evaluate[string](b, "document.title"); title == "run" {
		b.t.Errorf("%s: a stranger's script has run", state)
	}
	b.do(chromedp.Evaluate[chromedp.Void](readAxe(b.t)))
	for _, width := range []int64{360, 1280} {
		b.window(width, "light")
		b.expectFits(state, width)
		b.expectAccessible(state)
		if *pictures != "" {
			b.picture(filepath.Join(*pictures, fmt.Sprintf("state %s-%d.png", state, width)))
		}
	}
}
