package access

import (
	"net/netip"
	"strings"
	"testing"
)

var alice = &Identity{ID: "alice-id", User: "alice", Address: netip.MustParseAddr("10.0.3.4")}

var robot = &Identity{OIDC: &OIDC{Provider: "github-actions", Type: "GitHub Actions", Claims: map[string]any{
	"repository": "myorg/app", "ref": "refs/heads/main", "actor": "bob", "groups": []any{"dev", "ops"},
	"run_number": float64(17), "nested": map[string]any{"a": "b"},
}}}

var node = &Identity{Certificate: &Certificate{CommonName: "node-1.example.com", Organizations: []string{"Platform"}, Names: []string{"10.0.0.1"}}}

var stranger = &Identity{Anonymous: true, Address: netip.MustParseAddr("192.0.2.1")}

// Each rule is one of Angos' documentation, or a variation of it.
func TestRules(t *testing.T) {
	manifest := Question{Action: GetManifest, Namespace: "docker-io/library/nginx", Reference: "latest"}
	blob := Question{Action: GetBlob, Namespace: "docker-io/library/nginx", Digest: "sha256:aa"}
	ping := Question{Action: GetVersion}
	page := Question{Action: ListTags, Namespace: "docker-io/library/nginx", Page: Page{N: "200", Last: "v1"}}
	for _, test := range []struct {
		rule string
		id   *Identity
		q    Question
		want string // true, false or fails
	}{
		{`identity.username != null`, alice, manifest, "true"},
		{`identity.username != null`, stranger, manifest, "false"},
		{`identity.username != null  # not CEL`, stranger, manifest, "does not compile"},
		{`identity.username == 'alice'`, alice, ping, "true"},
		{`identity.username == 'alice'`, robot, ping, "false"},
		{`identity.username in ["alice", "philippe"]`, alice, ping, "true"},
		{`identity.id == "alice-id" && (request.action in ["get-api-version", "put-blob", "get-blob"])`, alice, blob, "true"},
		{`identity.certificate.organizations.contains('Platform')`, node, ping, "true"},
		{`identity.certificate.organizations.contains('Platform')`, alice, ping, "false"},
		{`'node-1.example.com' in identity.certificate.common_names`, node, ping, "true"},
		{`'admins' in identity.certificate.organizations`, stranger, ping, "false"},
		{`identity.oidc != null && identity.oidc.claims['repository'].startsWith('myorg/')`, robot, ping, "true"},
		{`identity.oidc != null && identity.oidc.claims['repository'].startsWith('myorg/')`, alice, ping, "false"},
		{"identity.oidc != null &&\n  identity.oidc.claims['ref'] == 'refs/heads/main' &&\n  request.action.startsWith('put-')", robot, manifest, "false"},
		{`identity.oidc != null && identity.oidc.claims['actor'] in ['alice', 'bob', 'dependabot[bot]']`, robot, ping, "true"},
		{`identity.oidc.claims['groups'].contains('ops')`, robot, ping, "true"},
		{`identity.oidc.claims['groups'].contains('op')`, robot, ping, "false"},
		{`identity.oidc.claims['run_number'] > 16`, robot, ping, "true"},
		{`identity.oidc.claims['run_number'] == 17`, robot, ping, "true"},
		{`identity.oidc.claims.contains('actor')`, robot, ping, "true"},
		{`identity.oidc.claims['nested'].a == 'b'`, robot, ping, "true"},
		{`identity.oidc.provider_type == 'GitHub Actions' && identity.oidc.provider_name == "github-actions"`, robot, ping, "true"},
		{`identity.oidc.claims['email'].endsWith("@company.com")`, robot, ping, "fails"},
		{`identity.oidc.claims['actor'] == 'bob'`, alice, ping, "fails"},
		{`identity.client_ip.startsWith('10.0.')`, alice, ping, "true"},
		{`identity.client_ip.startsWith('10.0.')`, stranger, ping, "false"},
		{`identity.client_ip.matches('^10[.]')`, alice, ping, "true"},
		{`request.action in ['get-manifest', 'get-blob', 'list-tags']`, stranger, manifest, "true"},
		{`request.action in ['get-manifest', 'get-blob', 'list-tags']`, stranger, ping, "false"},
		{`request.action == 'get-blob' || request.action == 'get-manifest'`, stranger, blob, "true"},
		{`identity.username != null && !request.action.startsWith('delete-')`, alice, blob, "true"},
		{`request.action == 'healthz'`, alice, blob, "false"},
		{`request.namespace.startsWith('docker-io/library/')`, alice, blob, "true"},
		{`request.namespace.contains('nginx')`, alice, blob, "true"},
		{`request.namespace == 'x'`, alice, ping, "fails"},
		{`has(request.namespace) && request.namespace == 'x'`, alice, ping, "false"},
		{`request.reference == 'latest'`, alice, manifest, "true"},
		{`request.reference == 'latest'`, alice, blob, "fails"},
		{`has(request.digest) && request.digest == 'sha256:aa'`, alice, blob, "true"},
		{`has(request.tags) && request.tags.exists(t, t.startsWith('v'))`, alice, manifest, "false"},
		{`request.action == 'mount-blob' && has(request.from) && request.from.startsWith('dev/')`, alice, manifest, "false"},
		{`request.from != null`, alice, manifest, "fails"},
		{`has(request.n) && request.n > 100`, alice, page, "true"},
		{`has(request.n) && request.n > 200`, alice, page, "false"},
		{`has(request.n) && request.n > 100`, alice, manifest, "false"},
		{`request.n == 200`, alice, manifest, "fails"},
		{`has(request.n)`, alice, Question{Action: ListTags, Page: Page{N: "x"}}, "false"},
		{`request.last.startsWith('v')`, alice, page, "true"},
		{`has(request.last)`, alice, manifest, "false"},
		{`identity.username != ''`, alice, manifest, "true"},
		{`size(identity.certificate.organizations) > 0`, node, manifest, "true"},
		{`identity.username`, alice, manifest, "fails"},
		{`42`, alice, manifest, "does not compile"},
		{``, alice, manifest, "does not compile"},
		{" \n\t", alice, manifest, "does not compile"},
		{`this is (((( not valid`, alice, manifest, "does not compile"},
		{`idntity.username == 'alice'`, alice, manifest, "does not compile"},
		{`now() > 5`, alice, manifest, "does not compile"},
		{`identity.usernam == 'alice'`, alice, manifest, "does not compile"},
		{`identity["usernam"] == 'alice'`, alice, manifest, "does not compile"},
		{`identity["username"] == 'alice'`, alice, manifest, "true"},
		{`has(identity.certificate.organisations)`, node, manifest, "does not compile"},
		{`identity.oidc != null && "actor" in identity.oidc.claim`, robot, manifest, "does not compile"},
		{`identity["oidc"].claim["actor"] == 'alice'`, robot, manifest, "does not compile"},
		{`[1].exists(n, has(request.refrence))`, alice, manifest, "does not compile"},
		{strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), alice, manifest, "does not compile"},
		{`"` + strings.Repeat("a", 20000) + `" == "b"`, alice, manifest, "does not compile"},
		{`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, request.action != 'x')))))`, alice, manifest, "fails"},
	} {
		got := "false"
		compiled, err := newPolicy(&Policy{Rules: []string{test.rule}})
		if err == nil {
			var allowed bool
			allowed, err = compiled.allows(variables(test.id, test.q))
			if allowed {
				got = "true"
			}
			if err != nil {
				got = "fails"
			}
		} else {
			got = "does not compile"
		}
		if got != test.want {
			t.Errorf("%.200s: %s (%v), want %s", test.rule, got, err, test.want)
		}
	}
}

// The error of a field that does not exist names those that do.
func TestUnknownFieldNamesTheOthers(t *testing.T) {
	for rule, want := range map[string]string{
		"identity.usernam == null":               "reads identity.usernam, which does not exist. The fields of identity are id, username, client_ip, certificate, oidc",
		"'x' in identity.certificate.orgs":       "reads identity.certificate.orgs, which does not exist. The fields of identity.certificate are common_names, organizations",
		"has(request.repo) && identity.id != ''": "reads request.repo, which does not exist. The fields of request are action, namespace, reference, digest, artifact_type, n, last",
	} {
		if err := CheckPolicy(Policy{Rules: []string{rule}}); err == nil || err.Error() != "rule 0 "+want {
			t.Errorf("%s: %v, want %s", rule, err, want)
		}
	}
}
