package api

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage"
)

// Requests are told the last one first, filtered, and only those that the client may know of.
func TestRequests(t *testing.T) {
	m := newMirror(t, "a/app")
	recent := traffic.NewRecent()
	m.opts.Recent = recent
	m.hidden = "b/secret"
	node := netip.MustParseAddr("192.0.2.7")
	app, secret := repositoryOf("a/app").ID, repositoryOf("b/secret").ID
	for _, one := range []traffic.Request{
		{Method: "GET", Operation: "manifest", Repository: "a/app", Reference: "v1", Status: 200, Bytes: 5, Took: time.Second, Cache: "hit", Address: node, ID: app},
		{Method: "GET", Repository: "a/app", Reference: "sha256:00", Status: 404, Cache: "none", User: access.Name{Subject: "alice"}, Upstream: "ghcr.io", ID: app},
		{Method: "GET", Repository: "b/secret", Reference: "v1", Status: 200, Cache: "hit", Address: node, ID: secret},
		// Names that lead to another repository by now tell nothing about these.
		{Method: "GET", Repository: "a/app", Reference: "v1-of-secret", Status: 200, Cache: "hit", Address: node, ID: secret},
		{Method: "GET", Repository: "a/app", Reference: "v1-of-removed", Status: 200, Cache: "hit", Address: node, ID: storage.RepoID{Namespace: "removed", Name: "app"}},
		{Method: "GET\x1b[2J", Repository: "c\u202e<script>", Status: 404, Cache: "none", Address: node},
	} {
		recent.Add(one)
	}
	for query, want := range map[string][]string{
		"":                         {"c", "a/app", "a/app"},
		"?status=404":              {"c", "a/app"},
		"?status=2xx":              {"a/app"},
		"?cache=hit":               {"a/app"},
		"?client=alice":            {"a/app"},
		"?client=192.0.2.7":        {"c", "a/app"},
		"?q=app:v":                 {"a/app"},
		"?q=app@sha256:0":          {"a/app"},
		"?q=nothing":               nil,
		"?status=404&client=alice": {"a/app"},
	} {
		w := m.get(t, "requests"+query)
		expectDescribed(t, "/requests", w.Code, w.Body.Bytes())
		var document RequestsDocument
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		var got []string
		for _, one := range document.Requests {
			if one.Repository != "a/app" { // it is not told as it came
				one.Repository = one.Repository[:1]
			}
			got = append(got, one.Repository)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{"?status=abc", "?status=9xx", "?status=99", "?status=xx", "?n=1"} {
		w := m.get(t, "requests"+query)
		expectDescribed(t, "/requests", w.Code, w.Body.Bytes())
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
	m.counted.blind = true
	if document, err := m.Requests(t.Context(), RequestFilter{}); err != nil || len(document.Requests) != 2 {
		t.Errorf("a client that may not know of all blocks: %+v, %v", document, err)
	}
}
