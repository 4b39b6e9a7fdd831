package tests

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// postForm posts a form of a page, as a browser does, and returns the status and the page to which
// the answer leads, or its body.
func postForm(t *testing.T, w *harness.Weir, path string, form url.Values, headers ...string) (status int, to, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+path, strings.NewReader(form.Encode()))
	harness.Must(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	harness.Must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	harness.Must(t, err)
	return resp.StatusCode, resp.Header.Get("Location"), string(answer)
}

// A registry that is added by the page serves pulls at once, and after a restart. Its password is in
// its file alone. A registry that does not work, one at a private address without the operator's
// word, and a client without rights add nothing.
func TestAddRegistry(t *testing.T) {
	t.Parallel()
	private := upstreamtest.New(t, upstreamtest.WithBasic("alice", "s3cret-word"))
	private.AddImage("team/app", "v1", []byte("a layer"))
	other := upstreamtest.New(t)
	dir, edited := t.TempDir(), t.TempDir()
	harness.Must(t, os.Chmod(edited, 0o700))
	config := func(allow bool) string {
		return fmt.Sprintf("[ui]\nedit_dir = %q\nallow_private_registries = %t\n", edited, allow) + block("other", other)
	}
	form := url.Values{
		"kind": {"private"}, "key": {"registry.example"}, "url": {private.URL.String()}, "username": {"alice"}, "password": {"s3cret-word"},
		"image": {"team/app:v1"}, "action": {"add"},
	}
	w := harness.StartWeirIn(t, dir, config(false))
	const page, image = "/add-registry", "registry.example/team/app"
	if status, _, body := postForm(t, w, page, form); status != http.StatusOK || !strings.Contains(body, "ui.allow_private_registries") || len(private.Log()) > 0 {
		t.Errorf("a private address: %d, %d requests\n%s", status, len(private.Log()), body)
	}
	rename(t, w.Config, config(true))
	harness.Eventually(t, "the change takes effect", func() bool { return w.Log.Count(inForce) > 0 })
	for name, headers := range map[string][]string{"another machine": {"X-Forwarded-For", "192.0.2.1"}, "another site": {"Sec-Fetch-Site", "cross-site"}} {
		if status, _, _ := postForm(t, w, page, form, headers...); status != http.StatusForbidden {
			t.Errorf("%s: %d", name, status)
		}
	}
	form.Set("password", "wr0ng-word")
	if status, to, body := postForm(t, w, page, form); status != http.StatusOK || !strings.Contains(body, "was not added") || strings.Contains(body, "wr0ng-word") {
		t.Errorf("a wrong password: %d %s\n%s", status, to, body)
	}
	if files, err := os.ReadDir(edited); err != nil || len(files) > 0 {
		t.Fatalf("%v %v", files, err)
	}
	expect(t, "not yet", w.Get(t, manifestPath(image, "v1")), http.StatusNotFound, "")

	form.Set("password", "s3cret-word")
	status, to, body := postForm(t, w, page, form)
	if status != http.StatusSeeOther {
		t.Fatalf("%d\n%s", status, body)
	}
	expect(t, "the block", w.Get(t, manifestPath(image, "v1")), http.StatusOK, "")
	if a := w.Get(t, to, "Accept", "text/html"); !strings.Contains(string(a.Body), "is in force") {
		t.Errorf("%s: %s", to, a.Body)
	}
	if text := w.Log.String(); strings.Contains(text, "s3cret-word") || strings.Contains(text, "wr0ng-word") || strings.Contains(to, "s3cret") {
		t.Error("the log or an address has a password")
	}
	info, err := os.Stat(filepath.Join(edited, "registry-registry.example.toml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if status, _, body := postForm(t, w, page, form); status != http.StatusOK || !strings.Contains(body, "Already exists") {
		t.Errorf("once more: %d\n%s", status, body)
	}
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	again := harness.StartWeirIn(t, dir, config(true))
	expect(t, "after a restart", again.Get(t, manifestPath(image, "v1")), http.StatusOK, "")
}
