package pages

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/weirhq/weir/tests/harness"
)

// places is how many pages can follow a mirror at once from one address.
const places = 32

// followers are pages that follow a mirror, as browsers do.
type followers []*http.Response

// follow has pages follow the mirror. It fails the test if one of them finds no place.
func (m *mirror) follow(t *testing.T, n int) followers {
	t.Helper()
	var all followers
	t.Cleanup(func() { all.leave() })
	for range n {
		answer := m.Open(t, "/", "Accept", "text/event-stream")
		all = append(all, answer)
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("page %d is refused: %d", len(all), answer.StatusCode)
		}
	}
	return all
}

// takePlace follows the mirror as soon as there is a place.
func (m *mirror) takePlace(t *testing.T) *http.Response {
	t.Helper()
	var answer *http.Response
	harness.Eventually(t, "the place is free", func() bool {
		answer = m.Open(t, "/", "Accept", "text/event-stream")
		if answer.StatusCode != http.StatusOK {
			answer.Body.Close()
		}
		return answer.StatusCode == http.StatusOK
	})
	return answer
}

func (f followers) leave() {
	for _, one := range f {
		one.Body.Close()
	}
}

// hurry has the timers of the pages that a tab opens end at once, and notes their times.
func (b *tab) hurry() {
	b.t.Helper()
	const script = `window.pauses = []; const wait = window.setTimeout; window.setTimeout = (f, ms, ...more) => { pauses.push(ms ?? 0); return wait(f, Math.min(ms ?? 0, 100), ...more); };`
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
		return err
	}))
}

// pull pulls a tag that does not exist, and returns its name, which the page of the activity shows then.
func (m *mirror) pull(t *testing.T, tag string) string {
	t.Helper()
	if a := m.Get(t, "/v2/"+repo+"/manifests/"+tag); a.Status != http.StatusNotFound {
		t.Fatalf("%s: %d %s", tag, a.Status, a.Body)
	}
	return tag
}

// shows is an expression for whether a page shows a text.
func shows(text string) string {
	return fmt.Sprintf(`document.querySelector("main").innerText.includes(%q)`, text)
}

// door is a way to the mirror that refuses pages which follow it while it is full, as a mirror does.
type door struct{ full atomic.Bool }

// newDoor returns a door of the mirror, and its URL.
func (m *mirror) newDoor(t *testing.T) (*door, string) {
	t.Helper()
	to, err := url.Parse(m.URL)
	harness.Must(t, err)
	d := new(door)
	pass := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "text/event-stream" && d.full.Load() {
			http.Error(w, "too many pages follow the mirror", http.StatusServiceUnavailable)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return d, server.URL
}

// A page that finds no place among those that follow the mirror is loaded again every 15 seconds, and says
// that, until there is a place. Nothing is called wrong. Real followers leave after a minute, which is too
// early on a slow machine: so a door refuses the page.
func TestPageWithoutAPlace(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	place, at := m.newDoor(t)
	place.full.Store(true)
	b.hurry()
	b.bears(at + "/activity")
	b.open(at+"/activity", http.StatusOK)
	evaluate[bool](b, "window.stays = true")
	b.wait(`document.querySelector("#stale").innerText.includes("every 15 seconds")`)
	b.wait("pauses.includes(15000)")
	b.wait(shows(m.pull(t, "not-followed")))
	if text := evaluate[string](b, "document.body.innerText"); strings.Contains(text, "does not answer") {
		t.Errorf("the page says that something is wrong:\n%s", text)
	}
	place.full.Store(false)
	b.wait(`document.querySelector("#stale").innerText === "" && stream?.readyState === EventSource.OPEN`)
	b.wait(shows(m.pull(t, "followed")))
	if !evaluate[bool](b, "Boolean(window.stays)") {
		t.Error("the page was loaded again")
	}
}

// A page that is hidden leaves its place to others, and goes on where it is when it is shown again.
func TestHiddenPage(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	m.follow(t, places-1)
	b.open(m.URL+"/activity", http.StatusOK)
	b.wait("stream?.readyState === EventSource.OPEN")
	hide := func(hidden bool) {
		t.Helper()
		evaluate[bool](b, fmt.Sprintf(`Object.defineProperty(document, "hidden", {value: %t, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`, hidden))
	}
	hide(true)
	other := m.takePlace(t)
	tag := m.pull(t, "while-hidden")
	if !evaluate[bool](b, "stream === undefined && parts.size === 0") {
		t.Error("a hidden page follows the mirror")
	}
	other.Body.Close()
	harness.Eventually(t, "the other page has left", func() bool {
		answer := m.Open(t, "/", "Accept", "text/event-stream")
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	b.bears(m.URL + "/activity") // the mirror may notice later that the pages above have left
	hide(false)
	b.wait(shows(tag))
}

// What is focused, selected or scrolled stays when a live part changes. A button or a link that has the focus
// is replaced when the focus has left it.
func TestFocusAndScrollSurvive(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	b.window(360, "light")
	b.open(m.URL+"/activity", http.StatusOK)
	b.wait("stream?.readyState === EventSource.OPEN && shown.has('requests')")
	const table = `document.querySelector("#requests .wide")`
	place := evaluate[string](b, table+`.focus(); `+table+`.scrollLeft = 90; scrollTo(0, 300); window.first = `+table+`; `+table+`.scrollLeft + " " + scrollY`)
	b.wait(shows(m.pull(t, "for-a-table")))
	if now := evaluate[string](b, table+`.scrollLeft + " " + scrollY`); now != place || !strings.HasPrefix(now, "90 ") {
		t.Errorf("the table and the page are at %s, and were at %s", now, place)
	}
	if !evaluate[bool](b, `first !== document.activeElement && document.activeElement === `+table) {
		t.Error("the table has lost the focus, or was not replaced")
	}

	evaluate[bool](b, `document.querySelector("#top a").focus(); window.link = document.activeElement; link.matches("#top a")`)
	m.pull(t, "for-a-link")
	b.wait(`parts.has("top") && ` + shows("for-a-link"))
	if !evaluate[bool](b, "link.isConnected && document.activeElement === link") {
		t.Error("the link has lost the focus")
	}
	evaluate[bool](b, "link.blur(), true")
	b.wait("!link.isConnected && !parts.has('top')")

	evaluate[bool](b, `getSelection().selectAllChildren(document.querySelector("#requests tbody th")), true`)
	m.pull(t, "for-a-selection")
	b.wait("parts.has('requests')")
	if selected := evaluate[string](b, "getSelection().toString()"); !strings.Contains(selected, "for-a-link") {
		t.Errorf("%q is selected", selected)
	}
	evaluate[bool](b, "getSelection().removeAllRanges(), true")
	b.wait(shows("for-a-selection"))
}

// A page that loses the mirror says so once it has waited, also if it was hidden meanwhile.
func TestPageLosesItsMirror(t *testing.T) {
	t.Parallel()
	m, b := startMirror(t), newTab(t)
	b.hurry()
	b.open(m.URL+"/activity", http.StatusOK)
	b.wait("stream?.readyState === EventSource.OPEN")
	b.bears(m.URL + "/activity")
	m.Kill()
	b.wait(`document.querySelector("#stale").innerText.includes("does not answer")`)
	evaluate[bool](b, `tell(""); Object.defineProperty(document, "hidden", {value: true, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	evaluate[bool](b, `Object.defineProperty(document, "hidden", {value: false, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	b.wait(`document.querySelector("#stale").innerText.includes("does not answer")`)
}
