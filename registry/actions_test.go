package registry_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
)

// Each request is the action in policies that Angos calls it, also as HEAD.
func TestActionsOfRequests(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	actions := map[string]string{
		"ping": "get-api-version", "catalog": "list-catalog", "manifest": "get-manifest", "head": "get-manifest", "digest": "get-manifest",
		"blob": "get-blob", "head of a blob": "get-blob", "tags": "list-tags", "referrers": "get-referrers",
		"write": "get-manifest", // a client that may not pull does not learn why it may not push
	}
	opts, right, _ := alice(t, false)
	for _, action := range append(slices.Collect(maps.Values(actions)), "put-manifest", "start-upload", "get-token", "metrics", "ui-asset") {
		opts.Policy = &access.Policy{DefaultAllow: true, Rules: []string{"request.action == '" + action + "'"}}
		m.rules(opts)
		for operation, line := range requestsOfAll() {
			method, path, _ := strings.Cut(line, " ")
			w := m.do(method, path, "Authorization", right)
			if denied := w.Code == http.StatusForbidden; denied != (actions[operation] == action) {
				t.Errorf("%s without %s: %d %s", line, action, w.Code, w.Body)
			}
		}
	}
}

// The exchange of a client's credential is the action get-token of its repository. A refusal is 401,
// since the mirror does not know the client, which may have another account that may do more.
func TestActionOfExchanges(t *testing.T) {
	_, m := rights(t, bearer())
	opts, _, _ := alice(t, false)
	for rule, want := range map[string]int{
		`request.action == 'get-token'`:                                                      401,
		`request.action == 'get-token' && request.namespace == 'up.example/app'`:             401,
		`request.action == 'get-token' && request.namespace == 'up.example/other'`:           200,
		`request.action == 'get-manifest'`:                                                   200,
		`has(request.namespace) && request.action != 'get-token' && request.namespace != ''`: 200,
	} {
		opts.Policy = &access.Policy{DefaultAllow: true, Rules: []string{rule}}
		m.rules(opts)
		w := account{t, m, asBasic(outsider)}.do(http.MethodGet, "/token?scope=repository:up.example/app:pull")
		if w.Code != want {
			t.Errorf("%s: %d %s", rule, w.Code, w.Body)
		}
	}
}

// Rules see which part of a list a request asks for, and ask again for each part.
func TestPagesInRules(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "v1", []byte("a layer"))
	opts, right, _ := alice(t, false)
	opts.Policy = &access.Policy{DefaultAllow: true, Rules: []string{"has(request.n) && request.n > 100", "has(request.last) && request.last == 'secret'"}}
	m.rules(opts)
	for _, list := range []string{"up.example/app/tags/list", "_catalog"} {
		for query, want := range map[string]int{"": 200, "?n=100": 200, "?n=101": 403, "?n=0101": 403, "?last=a": 200, "?n=1&last=secret": 403} {
			if w := m.do("GET", "/v2/"+list+query, "Authorization", right); w.Code != want {
				t.Errorf("%s%s: %d %s", list, query, w.Code, w.Body)
			}
		}
	}
}
