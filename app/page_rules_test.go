package app

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/testutil"
)

// The page lists the names that the client may pull, and /metrics follows the policy of
// all requests.
func TestPageFollowsRules(t *testing.T) {
	var ready error
	o := newOps(&ready, new(testutil.LogBuffer))
	rules, err := access.New(access.Options{
		Anonymous: true,
		Policy:    &access.Policy{DefaultAllow: true, Rules: []string{`request.action == 'metrics'`}},
		Blocks:    []access.Block{{Key: "ghcr.io/acme", Policy: &access.Policy{}}, {Key: "docker.io"}, {Key: "quay.io", Policy: &access.Policy{Rules: []string{`request.namespace.startsWith('quay.io/')`}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.access.Store(rules)
	o.page = newPage(func() []string { return []string{"ghcr.io/acme", "docker.io", "quay.io"} })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		o.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		return w
	}
	if page := get("/"); page.Code != 200 || !strings.Contains(page.Body.String(), "docker.io/") || !strings.Contains(page.Body.String(), "quay.io/") || strings.Contains(page.Body.String(), "ghcr.io/acme") {
		t.Errorf("%d %s", page.Code, page.Body)
	}
	if metrics := get("/metrics"); metrics.Code != 401 {
		t.Errorf("/metrics: %d", metrics.Code)
	}
	for _, path := range []string{"/", "/metrics"} {
		if control := get(path).Header().Get("Cache-Control"); control != "no-store" {
			t.Errorf("%s may be kept by a cache: %q", path, control)
		}
	}
	if health := get("/healthz"); health.Code != 200 {
		t.Errorf("/healthz: %d", health.Code)
	}
}

// The page is an asset of the user interface in the words of policies.
func TestActionOfThePage(t *testing.T) {
	var ready error
	o := newOps(&ready, new(testutil.LogBuffer))
	rules, err := access.New(access.Options{Anonymous: true, Policy: &access.Policy{DefaultAllow: true, Rules: []string{`request.action.startsWith('ui-')`}}})
	if err != nil {
		t.Fatal(err)
	}
	o.access.Store(rules)
	o.page = newPage(func() []string { return nil })
	for path, want := range map[string]int{"/": 401, "/metrics": 200, "/healthz": 200} {
		w := httptest.NewRecorder()
		o.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
