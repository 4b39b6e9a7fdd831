package app

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
)

// loadRules returns the access rules of a configuration. Its blocks are docker.io, as in
// Angos' examples public, dev and prod.
func loadRules(t *testing.T, text string) *access.Rules {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	for _, block := range []string{"public", "dev", "prod"} {
		text += "[[repository." + block + ".upstream]]\nurl = \"https://registry-1.docker.io\"\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err == nil {
		err = cfg.ValidateAway()
	}
	if err != nil {
		t.Fatal(err)
	}
	rules, err := translateAccess(cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// The access rules of Angos' documentation mean the same: each table is one of its
// examples, and says which clients pull what.
func TestRulesOfAngos(t *testing.T) {
	const admin = "[auth.identity.admin]\nusername = \"admin\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n"
	user := func(name string) *access.Identity { return &access.Identity{ID: name, User: name} }
	certified := func(organization string) *access.Identity {
		return &access.Identity{Certificate: &access.Certificate{CommonName: "build-server", Organizations: []string{organization}}}
	}
	token := func(provider string, claims map[string]any) *access.Identity {
		return &access.Identity{OIDC: &access.OIDC{Provider: provider, Claims: claims}}
	}
	at := func(address string) *access.Identity {
		return &access.Identity{Anonymous: true, Address: netip.MustParseAddr(address)}
	}
	stranger := at("192.0.2.1")
	pull := func(block string) access.Question {
		return access.Question{Action: access.GetManifest, Block: block, Name: "library/nginx", Namespace: block + "/library/nginx", Reference: "1.25"}
	}
	blob := access.Question{Action: access.GetBlob, Block: "public", Name: "library/nginx", Namespace: "public/library/nginx", Digest: "sha256:aa"}
	root, list, metrics := access.Question{Action: access.GetVersion}, access.Question{Action: access.ListCatalog}, access.Question{Action: access.ReadMetrics}
	type answer struct {
		id   *access.Identity
		q    access.Question
		want bool
	}
	for name, c := range map[string]struct {
		text    string
		answers []answer
	}{
		"a mirror of Docker Hub": {"[global.access_policy]\ndefault_allow = true\n", []answer{
			{stranger, root, true}, {stranger, pull("public"), true}, {stranger, list, true}, {user("admin"), pull("dev"), true},
		}},
		"require authentication": {admin + "[global.access_policy]\ndefault = \"deny\"\nrules = [\"identity.username != null\"]\n", []answer{
			{stranger, root, false}, {stranger, pull("public"), false}, {user("admin"), root, true}, {user("admin"), pull("public"), true}, {certified("Platform"), pull("public"), false},
		}},
		"anonymous read": {admin + "[global.access_policy]\ndefault = \"deny\"\nrules = [\"request.action in ['get-manifest', 'get-blob', 'list-tags']\", \"identity.username == 'admin'\"]\n", []answer{
			{stranger, root, false}, {stranger, pull("public"), true}, {stranger, blob, true}, {stranger, list, false}, {stranger, metrics, false},
			{user("admin"), root, true}, {user("admin"), list, true}, {user("bob"), pull("dev"), true}, {user("bob"), root, false},
		}},
		"networks": {"[global.access_policy]\nrules = [\"identity.client_ip.startsWith('10.0.')\", \"identity.username != null\"]\n", []answer{
			{at("10.0.3.4"), pull("public"), true}, {at("10.1.3.4"), pull("public"), false}, {stranger, pull("public"), false},
			{&access.Identity{User: "a", Address: netip.MustParseAddr("192.0.2.1")}, pull("public"), true},
		}},
		"mixed authentication": {`[global.access_policy]
default = "deny"
rules = [
  "identity.username == 'admin'",
  "identity.certificate.organizations.contains('DevOps')",
  '''identity.oidc != null &&
     identity.oidc.provider_name == "github-actions" &&
     identity.oidc.claims["repository"].startsWith("myorg/")''',
  '''identity.oidc != null &&
     identity.oidc.provider_name == "corporate" &&
     request.action.startsWith("get-")'''
]
`, []answer{
			{user("admin"), pull("public"), true}, {user("eve"), pull("public"), false}, {certified("DevOps"), list, true}, {certified("Sales"), list, false},
			{token("github-actions", map[string]any{"repository": "myorg/app"}), pull("dev"), true}, {token("github-actions", map[string]any{"repository": "other/app"}), pull("dev"), false},
			{token("github-actions", map[string]any{}), pull("dev"), false}, // a claim that is missing fails the rule
			{token("corporate", map[string]any{}), pull("dev"), true}, {token("corporate", map[string]any{}), list, false}, {stranger, pull("dev"), false},
		}},
		"several repositories": {`[repository."public".access_policy]
default = "deny"
rules = ["request.action in ['get-manifest', 'get-blob', 'list-tags']"]
[repository."dev".access_policy]
default = "deny"
rules = ["identity.certificate.organizations.contains('Engineering')"]
[repository."prod".access_policy]
default = "deny"
rules = [
  "identity.username == 'deployer'",
  '''identity.oidc != null &&
     identity.oidc.claims["ref"] == "refs/heads/main"'''
]
`, []answer{
			{stranger, pull("public"), true}, {stranger, pull("dev"), false}, {stranger, pull("prod"), false}, {certified("Engineering"), pull("dev"), true}, {certified("Engineering"), pull("prod"), false},
			{user("deployer"), pull("prod"), true}, {user("deployer"), pull("dev"), false}, {token("github", map[string]any{"ref": "refs/heads/main"}), pull("prod"), true},
			{token("github", map[string]any{"ref": "refs/heads/feature"}), pull("prod"), false},
		}},
		"pushes": {`[global.access_policy]
rules = [
  "identity.username == 'deployer' && request.action.startsWith('put-')",
  "request.action in ['start-upload', 'update-upload', 'complete-upload', 'delete-manifest', 'delete-blob']",
  "request.action == 'mount-blob' && has(request.from) && request.from.startsWith('dev/')",
  "has(request.tags) && request.tags.exists(t, t == 'latest')",
  "identity.username == 'reader'"
]
`, []answer{
			{user("deployer"), pull("dev"), false}, {user("deployer"), blob, false}, {user("deployer"), root, false}, {stranger, pull("dev"), false}, {user("reader"), pull("dev"), true},
		}},
		"no pushes": {"[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action.startsWith('put-') || request.action.startsWith('delete-')\", \"has(request.from)\"]\n", []answer{
			{user("deployer"), pull("dev"), true}, {stranger, blob, true}, {stranger, list, true},
		}},
		"global and repository": {"[global.access_policy]\nrules = [\"identity.username != null\"]\n[repository.prod.access_policy]\ndefault_allow = true\nrules = [\"identity.username == 'intern'\"]\n", []answer{
			{user("intern"), pull("dev"), true}, {user("intern"), pull("prod"), false}, {user("admin"), pull("prod"), true}, {stranger, pull("prod"), false},
		}},
	} {
		rules := loadRules(t, c.text)
		for n, a := range c.answers {
			err := rules.Permit(t.Context(), a.id, a.q, access.Presented{})
			if (err == nil) != a.want {
				t.Errorf("%s, %d: %s to %s %s: %v, want %t", name, n, a.q.Action, a.id.Name(), strings.TrimSpace(a.q.Block), err, a.want)
			}
		}
	}
}
