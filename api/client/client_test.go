package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/api/client"
	"github.com/weirhq/weir/oci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mirrorOf returns a client of a server, for a login.
func mirrorOf(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(address, url.UserPassword("alice", "secret"), nil, "test/1")
	t.Cleanup(c.Close)
	return c
}

func document(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// A request names the repository in one segment, and has the login and the program.
func TestRequests(t *testing.T) {
	var got string
	c := mirrorOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		got = fmt.Sprint(r.Method, " ", r.URL.EscapedPath(), " ", string(body), " ", user, ":", password, " ", r.UserAgent())
		document(http.StatusOK, "{}")(w, r)
	})
	image, err := oci.ParseImage("docker.io/library/alpine:3")
	if err != nil {
		t.Fatal(err)
	}
	for want, ask := range map[string]func() error{
		"GET /api/v1/repositories/docker.io%2Flibrary%2Falpine/tags/3 ": func() error {
			_, err := c.Tag(t.Context(), image.Name, "3")
			return err
		},
		"GET /api/v1/repositories/a%2Ftags%2Ftags/tags/tags/history ": func() error {
			_, err := c.History(t.Context(), "a/tags/tags", "tags")
			return err
		},
		`POST /api/v1/refresh {"image":"docker.io/library/alpine:3"}`: func() error {
			_, err := c.Refresh(t.Context(), image)
			return err
		},
	} {
		if err := ask(); err != nil || got != want+" alice:secret test/1" {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

// A list is read page by page, and a list without an end is given up.
func TestLists(t *testing.T) {
	pages := map[string]string{
		"":    `{"repositories": [{"name": "a/a"}, {"name": "a/b"}], "next": "/elsewhere"}`,
		"a/b": `{"repositories": [{"name": "a/c"}]}`,
	}
	c := mirrorOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/repositories" || r.URL.Query().Get("q") != "a/" {
			t.Errorf("asked for %s", r.URL)
		}
		document(http.StatusOK, pages[r.URL.Query().Get("last")])(w, r)
	})
	all, err := c.Repositories(t.Context(), "a/")
	if err != nil || len(all) != 3 || all[2].Name != "a/c" {
		t.Errorf("%v, %v", all, err)
	}
	var asked atomic.Int64
	endless := `{"tags": [` + strings.Repeat(`"x",`, 9999) + `"x"], "next": "more"}`
	c = mirrorOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		document(http.StatusOK, endless)(w, r)
	})
	if _, err := c.Tags(t.Context(), "a/a"); !errors.Is(err, client.ErrTooMany) || asked.Load() != client.MaxList/10_000+1 {
		t.Errorf("%v after %d pages", err, asked.Load())
	}
}

// The errors say whether the mirror refuses, or another program answers. The login follows no
// redirect, and no answer takes more memory than it may.
func TestErrors(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("redirected to %s", r.URL) }))
	defer elsewhere.Close()
	refusal := func(status int, code, message string) http.HandlerFunc {
		return document(status, fmt.Sprintf(`{"errors": [{"code": %q, "message": %q}]}`, code, message))
	}
	for label, test := range map[string]struct {
		handler http.HandlerFunc
		isNoAPI bool
		want    string
	}{
		"a refusal":             {refusal(403, "DENIED", "not for\x1b[2J you"), false, `not for\x1b[2J you`},
		"not cached":            {refusal(404, "MANIFEST_UNKNOWN", "the tag is not cached"), false, "the tag is not cached"},
		"a refusal without one": {http.NotFound, true, "404 Not Found"},
		"a listener without it": {refusal(404, "NAME_UNKNOWN", `no such endpoint: "/api/v1/downloads"`), true, "404 Not Found"},
		"an error of a proxy":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, false, "502 Bad Gateway"},
		"a redirect":            {http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect).ServeHTTP, true, "307 Temporary Redirect"},
		"a page":                {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, true, "not the JSON"},
		"an endless answer": {func(w http.ResponseWriter, _ *http.Request) {
			for piece := bytes.Repeat([]byte(" "), 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}, true, "longer than 32 MiB"},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"downloads": []}`)
		}, false, "the answer broke off"},
	} {
		_, err := mirrorOf(t, test.handler).Downloads(t.Context())
		if err == nil || errors.Is(err, client.ErrNoAPI) != test.isNoAPI || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", label, err)
		}
	}
}
