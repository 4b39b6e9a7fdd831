package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A repository has one name in the rules, however the client spells it.
func TestRulesSeeOneName(t *testing.T) {
	r := upstreamtest.New(t)
	for _, repo := range []string{"library/nginx", "secret/app"} {
		r.AddImage(repo, "v1", []byte("a layer"))
	}
	hub := block(t, r, func(spec *namespace.Spec) {
		spec.Key, spec.Host, spec.Default, spec.DockerHub = "hub", "docker.io", true, true
	})
	m := newMirror(t, hub)
	for rule, paths := range map[string][]string{
		`request.namespace.startsWith('hub/secret/')`: {
			"hub/secret/app/manifests/v1", "secret/app/manifests/v1", "secret/app/manifests/v1?ns=docker.io", "hub/secret/app/manifests/v1?ns=index.docker.io",
			"secret/app/tags/list", "secret/app/blobs/sha256:" + zeros, "secret/app/referrers/sha256:" + zeros + "?ns=docker.io",
		},
		`request.namespace == 'hub/library/nginx'`: {"hub/nginx/manifests/v1", "nginx/manifests/v1", "library/nginx/manifests/v1", "nginx/manifests/v1?ns=docker.io", "hub/library/nginx/tags/list"},
	} {
		opts, right, _ := alice(t, true)
		opts.Policy = &access.Policy{DefaultAllow: true, Rules: []string{rule}}
		// The root and the catalog have no namespace.
		opts.Policy.Rules[0] = "has(request.namespace) && " + rule
		m.rules(opts)
		for _, path := range paths {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				if w := m.do(method, "/v2/"+path, "Authorization", right); w.Code != http.StatusForbidden {
					t.Errorf("%s does not match %s %s: %d", rule, method, path, w.Code)
				}
			}
		}
	}
	opts, right, _ := alice(t, false)
	opts.Blocks = []access.Block{{Key: "hub", Images: []string{"library/*"}}}
	m.rules(opts)
	wantStatus(t, m.do("GET", "/v2/nginx/manifests/v1", "Authorization", right), http.StatusOK)
	for _, path := range []string{"secret/app/manifests/v1", "hub/secret/app/manifests/v1", "secret/app/manifests/v1?ns=docker.io"} {
		wantError(t, m.do("GET", "/v2/"+path, "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
	}
}

// A block with a longer key serves its names with its own rights and rules, whichever way a client spells
// them. The block of the whole registry, which may have more rights, is never asked for them.
func TestLongerKeyKeepsItsRules(t *testing.T) {
	whole, part := upstreamtest.New(t), upstreamtest.New(t)
	whole.AddImage("acme/private", "v1", []byte("of the whole registry"))
	whole.AddImage("org/app", "v1", []byte("of the whole registry"))
	image := part.AddImage("app", "v1", []byte("a layer"))
	m := newMirror(t,
		block(t, whole, func(spec *namespace.Spec) { spec.Key, spec.Host, spec.Default = "hub", "up.example", true }),
		block(t, part, func(spec *namespace.Spec) { spec.Key, spec.Host = "hub/acme", "" }))
	opts, right, _ := alice(t, true)
	opts.Policy = &access.Policy{Rules: []string{"has(request.namespace) && request.namespace.startsWith('hub/acme/')"}}
	m.rules(opts)
	for _, spelling := range []string{"acme/%s/manifests/v1?ns=up.example", "hub/acme/%s/manifests/v1?ns=UP.example", "hub/acme/%s/manifests/v1", "acme/%s/manifests/v1"} {
		w := m.do("GET", "/v2/"+fmt.Sprintf(spelling, "app"), "Authorization", right)
		if w.Code != http.StatusOK || w.Header().Get("Docker-Content-Digest") != image.Digest.String() {
			t.Errorf("%s: %d %s", spelling, w.Code, w.Body)
		}
		if got := w.Header().Get("OCI-Namespace"); (got != "") != strings.Contains(spelling, "ns=") {
			t.Errorf("%s: OCI-Namespace %q", spelling, got)
		}
		wantError(t, m.do("GET", "/v2/"+fmt.Sprintf(spelling, "private"), "Authorization", right), http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	wantError(t, m.do("GET", "/v2/org/app/manifests/v1?ns=up.example", "Authorization", right), http.StatusForbidden, "DENIED")
	if asked := whole.Requests(); len(asked) != 0 {
		t.Errorf("the whole registry was asked: %q", asked)
	}
	// The lists of the block decide too.
	opts, right, _ = alice(t, true)
	opts.Blocks = []access.Block{{Key: "hub"}, {Key: "hub/acme", Images: []string{"!app"}}}
	m.rules(opts)
	for _, path := range []string{"hub/acme/app/manifests/v1", "acme/app/manifests/v1?ns=up.example", "acme/app/manifests/v1"} {
		wantError(t, m.do("GET", "/v2/"+path, "Authorization", right), http.StatusNotFound, "NAME_UNKNOWN")
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// The catalog shows what the client may pull, on full pages.
func TestCatalogShowsWhatMayBePulled(t *testing.T) {
	r, m := pair(t)
	for _, repo := range []string{"a/open", "b/secret", "c/open", "d/secret", "e/open"} {
		r.AddImage(repo, "v1", []byte("a layer"))
		wantStatus(t, m.do("GET", "/v2/up.example/"+repo+"/manifests/v1"), http.StatusOK)
	}
	m.settle()
	opts, right, _ := alice(t, true)
	list := func(query string, headers ...string) []string {
		t.Helper()
		w := m.do("GET", "/v2/_catalog"+query, headers...)
		wantStatus(t, w, http.StatusOK)
		var page catalogPage
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Error(err)
		}
		return append(page.Repositories, w.Header().Get("Link"))
	}
	none := []string{""}
	open := []string{"up.example/a/open", "up.example/c/open", "up.example/e/open", ""}
	all := []string{"up.example/a/open", "up.example/b/secret", "up.example/c/open", "up.example/d/secret", "up.example/e/open", ""}
	for name, c := range map[string]struct {
		block     access.Block
		anonymous []string
		alice     []string
	}{
		"nothing":                   {access.Block{}, all, all},
		"names":                     {access.Block{Images: []string{"!**/secret"}}, open, open},
		"a list":                    {access.Block{Allow: subjects(t, "alice")}, none, all},
		"a network":                 {access.Block{Allow: subjects(t, "cidr:203.0.113.0/24")}, none, none},
		"a policy":                  {access.Block{Policy: &access.Policy{Rules: []string{`identity.username == 'alice' || request.namespace.endsWith('/open')`}}}, open, all},
		"a policy of other actions": {access.Block{Policy: &access.Policy{Rules: []string{`request.action == 'list-tags'`}}}, none, none},
	} {
		c.block.Key = "up.example"
		opts.Blocks = []access.Block{c.block}
		m.rules(opts)
		if got := list(""); !slices.Equal(got, c.anonymous) {
			t.Errorf("%s: anonymous clients see %q, want %q", name, got, c.anonymous)
		}
		if got := list("", "Authorization", right); !slices.Equal(got, c.alice) {
			t.Errorf("%s: alice sees %q, want %q", name, got, c.alice)
		}
	}
	opts.Blocks = []access.Block{{Key: "up.example", Images: []string{"!**/secret"}}}
	m.rules(opts)
	for query, want := range map[string][]string{
		"?n=2":                          {"up.example/a/open", "up.example/c/open", `</v2/_catalog?last=up.example%2Fc%2Fopen&n=2>; rel="next"`},
		"?n=2&last=up.example/c/open":   {"up.example/e/open", ""},
		"?n=1&last=up.example/b/secret": {"up.example/c/open", `</v2/_catalog?last=up.example%2Fc%2Fopen&n=1>; rel="next"`},
		"?n=3":                          open,
		"?n=0":                          none,
		"?n=1&last=up.example/e/open":   none,
		"?last=up.example/a/openly":     open[1:],
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func subjects(t *testing.T, texts ...string) []access.Subject {
	t.Helper()
	var all []access.Subject
	for _, text := range texts {
		subject, err := access.ParseSubject(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, subject)
	}
	return all
}

// A rule that fails is a warning in the log, and a refusal is none.
func TestFailedRulesAreWarnedOf(t *testing.T) {
	_, m := pair(t)
	opts, right, _ := alice(t, false)
	for rule, want := range map[string]string{`identity.username == 'bob'`: "INFO", `identity.oidc.claims['a'] == 'b'`: "WARN"} {
		opts.Policy = &access.Policy{Rules: []string{rule}}
		m.rules(opts)
		wantError(t, m.do("GET", "/v2/up.example/app/manifests/v1", "Authorization", right), http.StatusForbidden, "DENIED")
		lines := m.log.requests(t)
		if last := lines[len(lines)-1]; last["level"] != want {
			t.Errorf("%s: %v", rule, last)
		}
	}
}
