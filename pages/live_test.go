package pages

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/weirhq/weir/api"
)

// The live parts of each template are found, and no section is in one of them.
func TestLiveParts(t *testing.T) {
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	live := 0
	var withParts []string
	for _, entry := range entries {
		text, err := templateFiles.ReadFile("templates/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		parts := partsOf(text)
		live += len(parts)
		if len(parts) > 0 {
			withParts = append(withParts, entry.Name())
		}
		if n := strings.Count(string(text), "data-live"); n != len(parts) {
			t.Errorf("%s has %d live parts, and %d are found", entry.Name(), n, len(parts))
		}
		for _, part := range parts {
			if strings.Contains(part.HTML, "<section") {
				t.Errorf("%s: %s holds a section", entry.Name(), part.ID)
			}
		}
		if entry.Name() == "parts.html" && regexp.MustCompile(`</?section`).Match(text) {
			t.Error("a common part has a section, which ends a live one")
		}
	}
	if live == 0 {
		t.Error("no template has live parts")
	}
	if want := []string{"activity.html", "overview.html"}; !slices.Equal(withParts, want) || !livePages["/"] || !livePages["/activity"] || len(livePages) != len(want) {
		t.Errorf("%q have live parts, and %v are followed", withParts, livePages)
	}
	got := partsOf([]byte(`<section id="a" data-live aria-live="polite">x &lt;/section&gt;` + "\n" + `y</section><section id="b">z</section><section id="c" data-live></section>`))
	if want := []part{{"a", "x &lt;/section&gt;\ny"}, {"c", ""}}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A page that finds no place is told so, so that it asks later.
func TestFollowedPagesAreBounded(t *testing.T) {
	documents := api.New(api.Options{})
	defer documents.Close()
	h := New(Options{API: documents, Name: func() string { return "x" }, MayChange: func(*http.Request) bool { return false }})
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("Accept", Events)
	for {
		_, leave, err := documents.Streaming(r)
		if err != nil {
			break
		}
		defer leave()
	}
	h.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// A page without live parts is not followed: its answer is the page.
func TestOtherPagesAreNotFollowed(t *testing.T) {
	documents := api.New(api.Options{Logger: slog.New(slog.DiscardHandler)})
	defer documents.Close()
	h := New(Options{API: documents, Name: func() string { return "x" }, MayChange: func(*http.Request) bool { return false }})
	h.views["/image"] = func(context.Context, *http.Request) (page, error) {
		return page{}, &api.Failure{Status: http.StatusNotFound, Message: "it is not cached"}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/image?name=app", nil)
	r.Header.Set("Accept", Events)
	h.ServeHTTP(w, r)
	if w.Code != http.StatusNotFound || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// A page that is followed sends each part again when it has changed, and ends when it can no longer be shown.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		documents := api.New(api.Options{Logger: slog.New(slog.DiscardHandler)})
		defer documents.Close()
		h := New(Options{API: documents, Name: func() string { return "x" }, MayChange: func(*http.Request) bool { return false }})
		rounds := 0
		h.views["/"] = func(context.Context, *http.Request) (page, error) {
			rounds++
			values := struct {
				Filter   api.RequestFilter
				Requests []api.RequestDocument
				Clients  []api.TopClient
				Jobs     []jobRow
				Problem  string
			}{}
			switch {
			case rounds == 20:
				return page{}, errors.New("it is gone")
			case rounds > 10:
				values.Clients = []api.TopClient{{Client: "</section>"}}
			}
			return page{"x", "activity", values}, nil
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Accept", Events)
		h.ServeHTTP(w, r)
		body := w.Body.String()
		for text, want := range map[string]int{"event: part\n": 4, `"id":"top"`: 2, `"id":"requests"`: 1, `"id":"jobs"`: 1, "</section>": 0} {
			if n := strings.Count(body, text); n != want {
				t.Errorf("%q comes %d times, want %d, in %s", text, n, want, body)
			}
		}
		if rounds != 20 {
			t.Errorf("the stream ended after %d rounds", rounds)
		}
	})
}
