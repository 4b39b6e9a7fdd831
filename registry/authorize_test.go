package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
)

// requestsOfAll returns a request of each operation.
func requestsOfAll() map[string]string {
	dgst := digest.FromString("a layer").String()
	return map[string]string{
		"ping": "GET /v2/", "catalog": "GET /v2/_catalog",
		"manifest": "GET /v2/up.example/app/manifests/v1", "head": "HEAD /v2/up.example/app/manifests/v1",
		"digest": "GET /v2/up.example/app/manifests/" + dgst,
		"blob":   "GET /v2/up.example/app/blobs/" + dgst, "head of a blob": "HEAD /v2/up.example/app/blobs/" + dgst,
		"tags": "GET /v2/up.example/app/tags/list", "referrers": "GET /v2/up.example/app/referrers/" + dgst,
		"write": "PUT /v2/up.example/app/manifests/v1",
	}
}

// A refusal comes before any lookup: the upstream is not asked, stored content is
// not served, and the refusal is the answer.
func TestAuthorizeComesBeforeAnyLookup(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	for name, line := range requestsOfAll() { // fills the cache
		method, path, _ := strings.Cut(line, " ")
		if w := m.do(method, path); w.Code == http.StatusForbidden {
			t.Fatalf("%s: %d", name, w.Code)
		}
	}
	m.settle()
	r.ResetRequests()
	m.authorize = func(*http.Request, registry.Request, *namespace.Namespace, string) error {
		return &registry.Error{Status: http.StatusForbidden, Code: "DENIED", Message: "not for you"}
	}
	for name, line := range requestsOfAll() {
		method, path, _ := strings.Cut(line, " ")
		w := m.do(method, path)
		wantStatus(t, w, http.StatusForbidden)
		if method != "HEAD" && wantError(t, w, http.StatusForbidden, "DENIED") != "not for you" {
			t.Errorf("%s: %s", name, w.Body)
		}
		wantHeader(t, w.Header(), "Cache-Status", "", "Docker-Content-Digest", "")
	}
	if asked := r.Requests(); len(asked) > 0 {
		t.Errorf("the upstream was asked %q", asked)
	}
}

// The hook is called once for a request that parses, with the resolved name; it is
// not called for a name that no namespace answers.
func TestAuthorizeKnowsTheResolvedName(t *testing.T) {
	_, m := pair(t)
	var calls []string
	m.authorize = func(_ *http.Request, req registry.Request, ns *namespace.Namespace, repo string) error {
		key := ""
		if ns != nil {
			key = ns.Key()
		}
		calls = append(calls, fmt.Sprintf("%s %s %s", req.Op, key, repo))
		return nil
	}
	for _, path := range []string{
		"/v2/", "/v2/_catalog", "/v2/up.example/app/tags/list", "/v2/team/app/tags/list?ns=up.example",
		"/v2/nowhere/app/tags/list", "/v2/UP/tags/list",
	} {
		m.do("GET", path)
	}
	if want := []string{"ping  ", "catalog  ", "tags up.example app", "tags up.example team/app"}; !slices.Equal(calls, want) {
		t.Errorf("%q, want %q", calls, want)
	}
}

// An error of the hook that is no answer is a failure of the mirror, and shows
// nothing of its cause.
func TestAuthorizeFails(t *testing.T) {
	_, m := pair(t)
	m.authorize = func(*http.Request, registry.Request, *namespace.Namespace, string) error {
		return errors.New("the rules cannot be read")
	}
	if message := wantError(t, m.do("GET", "/v2/up.example/app/tags/list"), 500, "UNKNOWN"); strings.Contains(message, "rules") {
		t.Error(message)
	}
}
