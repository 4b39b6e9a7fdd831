package pages

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// pictures is a directory for a picture of every page that a test looks at.
var pictures = flag.String("pages.pictures", "", "write a picture of every page to this directory")

// chromium is the browser that all tests share. Starting one takes seconds.
var chromium browser

type browser struct {
	mu   sync.Mutex
	ctx  context.Context // of the process; nil before it has started
	stop []func()
}

// start starts the browser if it does not run yet.
func (b *browser) start(t *testing.T) context.Context {
	t.Helper()
	program := testutil.Program(t, "chromium", "chromium")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx != nil {
		return b.ctx
	}
	profile, err := os.MkdirTemp("", "weir-chromium-")
	harness.Must(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.UserDataDir(profile),
		chromedp.NoSandbox, // Chromium has none for root. It opens the pages of these tests alone.
		// No packet leaves the machine: neither for a name nor for a service of the browser's maker.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("no-pings", true),
		chromedp.WSURLReadTimeout(harness.Patience),
	)
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, endBrowser := chromedp.NewContext(allocator)
	b.stop = []func(){endBrowser, endAllocator, func() { os.RemoveAll(profile) }}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("the browser does not start: %v", err)
	}
	b.ctx = ctx
	return ctx
}

// end ends the browser.
func (b *browser) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, stop := range b.stop {
		stop()
	}
}

// tab is a tab of the browser. Its cookies and its cache are its own.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	failing  string // address of a page that is known to answer with an error
	refused  string // address of a page whose stream is known to be refused, or to end
	messages []string
}

// newTab opens a tab, and closes it with the test. An exception, an error of the console, a
// violation of the policy of a page and a dialog fail the test.
func newTab(t *testing.T) *tab {
	t.Helper()
	own, end := chromedp.NewContext(chromium.start(t), chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(own, 4*harness.Patience)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatalf("no tab opens: %v", err)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, one := range b.messages {
			t.Errorf("the browser says: %s", one)
		}
	})
	return b
}

// listen collects what no page may cause.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.messages = append(b.messages, fmt.Sprintf("exception: %s", e.ExceptionDetails.Text))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			b.messages = append(b.messages, fmt.Sprintf("%s: %v", e.Type, e.Args))
		}
	case *cdplog.EventEntryAdded:
		isKnown := e.Entry.URL != "" && (e.Entry.URL == b.failing || e.Entry.URL == b.refused)
		if (e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning) && !isKnown {
			b.messages = append(b.messages, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *page.EventJavascriptDialogOpening:
		b.messages = append(b.messages, fmt.Sprintf("a dialog: %s", e.Message))
		go func() { // the page stands still until the dialog is closed
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}()
	}
}

// do runs actions.
func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%v; the page is\n%s", err, b.text())
	}
}

// open opens an address, whose answer has a status.
func (b *tab) open(url string, status int) {
	b.t.Helper()
	b.mu.Lock()
	b.failing = ""
	if status != http.StatusOK {
		b.failing = url
	}
	b.mu.Unlock()
	answer, err := chromedp.RunResponse(b.ctx, chromedp.Navigate(url))
	if err != nil {
		b.t.Fatalf("%s: %v; the page is\n%s", url, err, b.text())
	}
	if answer == nil || answer.Status != int64(status) {
		b.t.Errorf("%s: the answer is %+v, want %d", url, answer, status)
	}
}

// bears lets the streams of a page be refused, or end.
func (b *tab) bears(url string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = url
}

// evaluate returns the value of an expression in a tab.
func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v; the page is\n%s", expression, err, b.text())
	}
	return value
}

// wait waits until an expression holds, also while pages come and go.
func (b *tab) wait(expression string) {
	b.t.Helper()
	holds := harness.Within(harness.Patience, func() bool {
		value, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		return err == nil && value
	})
	if !holds {
		b.t.Fatalf("waited in vain for %s; the page is\n%s", expression, b.text())
	}
}

// click clicks an element.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// text returns the beginning of the text of the page, for messages about failures.
func (b *tab) text() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 10*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 3000)`))
	if err != nil {
		return err.Error()
	}
	return text
}

// scripts turns the scripts of the pages on or off.
func (b *tab) scripts(on bool) {
	b.t.Helper()
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
}

// window sets the width of the window, and the scheme that the user prefers.
func (b *tab) window(width int64, scheme string) {
	b.t.Helper()
	b.resize(width, 900, scheme)
}

// resize sets the size of the window, and the scheme that the user prefers.
func (b *tab) resize(width, height int64, scheme string) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

// call sends a command to a tab.
func call[P any](b *tab, command cdp.Command[P, cdp.Empty], params P) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, command, params)
		return err
	}))
}

// picture writes a picture of the whole page.
func (b *tab) picture(path string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	harness.Must(b.t, err)
	harness.Must(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	harness.Must(b.t, os.WriteFile(path, picture, 0o644)) //nolint:gosec // for all readers
}

// readAxe returns the script that looks for faults of accessibility.
func readAxe(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/axe.min.js")
	harness.Must(t, err)
	return string(text)
}

// fault is a fault of accessibility.
type fault struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

func (f fault) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s", f.ID, f.Help)
	for i, node := range f.Nodes {
		if i == 3 {
			fmt.Fprintf(&text, "\n\tand %d more", len(f.Nodes)-i)
			break
		}
		fmt.Fprintf(&text, "\n\t%.200s\n\t%s", node.HTML, strings.ReplaceAll(node.Summary, "\n", " "))
	}
	return text.String()
}
