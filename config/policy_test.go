package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// The access rules in Angos' documentation load, and mean the same.
func TestPoliciesOfAngos(t *testing.T) {
	const admin = "[auth.identity.admin]\nusername = \"admin\"\npassword = \"" + secretHash + "\"\n"
	for name, text := range map[string]string{
		"require authentication": "[global.access_policy]\ndefault = \"deny\"\nrules = [\n  \"identity.username != null\"  # Require authentication\n]\n",
		"read-only for everyone": admin + "[global.access_policy]\ndefault = \"deny\"\nrules = [\n  # Anyone can pull images (anonymous read)\n  \"request.action in ['get-manifest', 'get-blob', 'list-tags']\",\n  # Only admin can write\n  \"identity.username == 'admin'\"\n]\n",
		"networks and claims": `[global.access_policy]
rules = [
  "identity.client_ip.startsWith('10.0.')",
  "identity.certificate.organizations.contains('Engineering')",
  '''identity.oidc != null &&
     identity.oidc.claims["email"].endsWith("@company.com")'''
]
`,
		"pushes": `[global.access_policy]
rules = [
  "identity.username == 'deployer' && request.action.startsWith('put-')",
  "identity.username != null && !request.action.startsWith('delete-')",
  "request.action == 'healthz'",
  "request.action == 'mount-blob' && has(request.from) && request.from.startsWith('dev/')",
  "has(request.tags) && request.tags.exists(t, t == 'latest')",
  "request.action == 'ui-asset' || request.action == 'ui-config'"
]
`,
		"a repository": "[repository.\"docker.io\".access_policy]\ndefault = \"deny\"\nrules = [\n    'identity.username in [\"philippe\"]',\n    '\"philippe\" in identity.certificate.common_names',\n" +
			"    \"\"\"identity.id == \"phil\" && (request.action in [\n    \"get-api-version\",\n    \"put-blob\", \"get-blob\", \"delete-blob\",\n    \"list-tags\"])\"\"\"\n]\n",
		"webhooks": `[auth.webhook.standard]
url = "https://auth.example.com/authorize"
timeout_ms = 1000
bearer_token = "secret-api-key"
[auth.webhook.enhanced]
url = "https://secure-auth.example.com/authorize"
timeout_ms = 2000
basic_auth = { username = "webhook", password = "secret" }
forward_headers = ["X-Custom-Token", "X-Request-ID", "Authorization"]
cache_ttl = 0
[global]
authorization_webhook = "standard"
[repository."docker.io"]
authorization_webhook = ""
[repository."ghcr.io"]
authorization_webhook = "enhanced"
[[repository."ghcr.io".upstream]]
url = "https://ghcr.io"
`,
	} {
		if problems := problemsOf(t, docker+text); problems != "" {
			t.Errorf("%s: %s", name, problems)
		}
	}
}

func TestPolicyDefaults(t *testing.T) {
	for text, want := range map[string]struct {
		policy PolicyDefault
		warned string // by
	}{
		"[global.access_policy]\n":                                                 {PolicyDeny, ""},
		"[access_policy]\n":                                                        {PolicyDeny, ""},
		"[global.access_policy]\ndefault = \"allow\"\n":                            {PolicyAllow, ""},
		"[access_policy]\ndefault = \"allow\"\n":                                   {PolicyAllow, ""},
		"[global.access_policy]\ndefault_allow = true\n":                           {PolicyAllow, `global.access_policy.default_allow (config.toml:5) is an older spelling. Write default = "allow"`},
		"[global.access_policy]\ndefault_allow = false\n":                          {PolicyDeny, `Write default = "deny"`},
		"[global.access_policy]\ndefault = \"deny\"\ndefault_allow = true\n":       {PolicyDeny, "is an older spelling"},
		"[access_policy]\ndefault_allow = true\n[global]\nimmutable_tags = true\n": {PolicyAllow, "is an older spelling"},
	} {
		c := mustLoad(t, docker+text)
		if c.Global.AccessPolicy == nil || c.Global.AccessPolicy.Default != want.policy {
			t.Errorf("%s: %+v", text, c.Global.AccessPolicy)
		}
		warnings := strings.Join(c.Warnings(), "\n")
		if (want.warned != "") != strings.Contains(warnings, "older spelling") || !strings.Contains(strings.ReplaceAll(warnings, filepath.Dir(c.source.files[0])+"/", ""), want.warned) {
			t.Errorf("%s: warnings %s", text, warnings)
		}
	}
}

// Requests without credentials are let in to rules that decide about them.
func TestAnonymousDefault(t *testing.T) {
	const user = "[auth.identity.a]\nusername = \"a\"\npassword = \"" + secretHash + "\"\n"
	const blockPolicy = "[repository.\"docker.io\".access_policy]\n"
	for text, want := range map[string]bool{
		"":                                  true,
		user:                                false,
		user + "[auth]\nanonymous = true\n": true,
		"[auth]\nanonymous = false\n":       false,
		"[global.access_policy]\n":          true,
		user + "[global.access_policy]\n":   true,
		user + "[access_policy]\n":          true,
		user + "[global.access_policy]\ndefault = \"allow\"\n": false,
		user + blockPolicy:                           true,
		user + blockPolicy + "default = \"allow\"\n": false,
		user + blockPolicy + "[[repository.other.upstream]]\nurl = \"https://x.io\"\n": false,
		user + "[auth]\nanonymous = false\n[global.access_policy]\n":                   false,
		"[auth.webhook.a]\nurl = \"https://x.io\"\n":                                   true,
	} {
		if got := mustLoad(t, docker+text).Auth.Anonymous; got != want {
			t.Errorf("%s: anonymous is %t", text, got)
		}
	}
}

func TestRuleProblems(t *testing.T) {
	const hook = "[auth.webhook.opa]\nurl = \"https://opa.example.com\"\n"
	block := func(settings string) string { return docker + "[repository.\"docker.io\"]\n" + settings + "\n" }
	for text, want := range map[string]string{
		block(`images = ["**", "a["]`):                                 `config.toml:5: repository."docker.io".images[1]: "a[" is not a valid glob`,
		block(`images = ["docker.io/library/**"]`):                     "begins with the block's own key",
		block(`images = "x"`):                                          "must be an array of strings",
		block(`allow = ["ldap:x"]`):                                    `repository."docker.io".allow[0]: "ldap:x" does not begin with cert:`,
		block(`allow = ["cidr:10.0.0.1/8"]`):                           "has address bits beyond its prefix",
		block(`allow = ["@ci"]`):                                       `"@ci" is not a group in [auth.groups]`,
		block(`allow = ["anonymous"]`) + "[auth]\nanonymous = false\n": `"anonymous" has no effect`,
		block(`allow = ["anonymous"]`):                                 "",
		block(`allow = ["oidc:github"]`):                               `"oidc:github" is not an issuer; add [auth.oidc.github]`,
		block(`allow = ["oidc:github"]`) + "[auth.oidc.github]\nissuer = \"https://token.actions.githubusercontent.com\"\n": "",
		block(`allow = ["alice", "authenticated"]`):                                                            "",
		block(`allow = ["@ci"]`) + "[auth.groups]\nci = [\"alice\"]\n":                                         "",
		docker + "[global.access_policy]\nrules = [\"true\", \"x ==\", \"\", \"42\", \"idntity.id == 'a'\"]\n": `config.toml:5: global.access_policy.rules[1]: does not compile`,
		docker + "[global.access_policy]\nrules = [\"idntity.id == 'a'\"]\n":                                   "undeclared reference to 'idntity'",
		docker + "[global.access_policy]\nrules = [\"42\"]\n":                                                  "yields int; it must yield true or false",
		docker + "[global.access_policy]\ndefault = \"maybe\"\n":                                               `must be one of allow, deny, not "maybe"`,
		docker + "[global.access_policy]\ndefault_allow = \"yes\"\n":                                           "must be true or false",
		docker + "[global.access_policy]\nrule = [\"true\"]\n":                                                 `did you mean "rules"?`,
		docker + "[access_policy]\n[global.access_policy]\n":                                                   "config.toml:4: access_policy: is the same table as [global.access_policy]",
		docker + "[global]\nauthorization_webhook = \"opa\"\n":                                                 `config.toml:5: global.authorization_webhook: no webhook is called "opa"`,
		block(`authorization_webhook = "opa"`):                                                                 `repository."docker.io".authorization_webhook: no webhook is called "opa"`,
		block(`authorization_webhook = ""`):                                                                    "",
		block(`authorization_webhook = "opa"`) + hook:                                                          "",
		docker + "[auth.webhook.opa]\n":                                                                        "auth.webhook.opa.url: is missing",
		docker + hook + "timeout_ms = 0\n":                                                                     "timeout_ms: must be between 1 and 60000",
		docker + hook + "cache_ttl = -1\n":                                                                     "cache_ttl",
		docker + hook + "bearer_token = \"a\"\nbasic_auth = { username = \"u\", password = \"p\" }\n":          "bearer_token: and basic_auth cannot both be set",
		docker + hook + "basic_auth = { username = \"u\" }\n":                                                  "auth.webhook.opa.basic_auth.password: is missing",
		docker + hook + "forward_headers = [\"X-Registry-Username\"]\n":                                        `forward_headers[0]: "X-Registry-Username" is a header that Weir sets itself`,
		docker + hook + "client_private_key = \"/x\"\n":                                                        "client_certificate_bundle: is missing",
		docker + hook + "server_ca_bundle = \"/no/such/file\"\n":                                               "server_ca_bundle: cannot read the file",
		docker + "[auth.webhook.opa]\nurl = \"ftp://x\"\n":                                                     "must start with https:// or http://",
	} {
		got := problemsOf(t, text)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s\ngot %s\nwant %s", text, got, want)
		}
	}
}

// The rules show in the configuration in force, without the secrets of webhooks, and
// their files are watched.
func TestRulesAreWritten(t *testing.T) {
	secret := write(t, "token", "a-token\n")
	c := mustLoad(t, fmt.Sprintf(docker+`[repository."docker.io"]
images = ["library/*"]
allow = ["alice"]
authorization_webhook = ""
[repository."docker.io".access_policy]
rules = ['''identity.oidc.claims["a"] == "b"''']
[global.access_policy]
default = "allow"
[auth.webhook.opa]
url = "http://opa.example.com"
bearer_token_file = %q
`, secret))
	text := effective(t, c)
	if strings.Contains(text, "a-token") {
		t.Errorf("the token shows: %s", text)
	}
	if !slices.Contains(c.Files(), secret) {
		t.Error("the token's file is not watched")
	}
	if warnings := strings.Join(c.Warnings(), "\n"); !strings.Contains(warnings, "a webhook is called over http") || !strings.Contains(warnings, "auth.webhook.opa") {
		t.Errorf("the warnings are %s", warnings)
	}
	again := mustLoad(t, text)
	if d := diff(withoutSecrets(c), withoutSecrets(again)); d != "" {
		t.Error(d)
	}
}

// A configuration with every key of access control that Angos has loads without a problem and
// without a warning, and each key counts.
func TestAccessKeysOfAngos(t *testing.T) {
	ca := testutil.NewAuthority(t)
	certificate, key := ca.Issue("localhost", time.Now().Add(time.Hour))
	token := write(t, "token", "a-token\n")
	c := mustLoad(t, fmt.Sprintf(docker+`[repository."docker.io"]
authorization_webhook = "opa"
access_policy = { default = "deny", rules = ["identity.username == 'ci'"] }

[server]
bind_address = "0.0.0.0"
[server.tls]
server_certificate_bundle = %[1]q
server_private_key = %[2]q
client_ca_bundle = %[3]q
client_auth = "required"

[global]
trusted_proxies = ["10.0.0.0/8"]
authorization_webhook = "opa"
[global.access_policy]
default = "allow"
rules = ["identity.oidc != null && identity.oidc.claims['x'] == 'y'"]

[auth.identity.ci]
username = "ci"
password = %[5]q

[auth.oidc.generic]
issuer = "https://issuer.example.com"
jwks_uri = "https://issuer.example.com/keys"
server_ca_bundle = %[3]q
client_certificate_bundle = %[1]q
client_private_key = %[2]q
bearer_token_file = %[4]q
required_audience = "mirror"
required_claims = ["sub"]
clock_skew_tolerance = 5
allowed_algorithms = ["ES256"]
jwks_refresh_interval = 60
http_request_timeout_secs = 3
jwks_refresh_timeout_secs = 4

[auth.token_service]
secret_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
realm = "https://mirror.example.com/token"
ttl_secs = 300

[auth.webhook.opa]
url = "https://opa.example.com/authorize"
timeout_ms = 500
bearer_token = "a-token"
client_certificate_bundle = %[1]q
client_private_key = %[2]q
server_ca_bundle = %[3]q
forward_headers = ["Authorization"]
cache_ttl = 7
`, certificate, key, ca.File(), token, secretHash))
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if warnings := c.Warnings(); len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	issuer, hook, block := c.Auth.OIDC[0], c.Auth.Webhooks[0], c.Namespaces[0]
	for name, holds := range map[string]bool{
		"server.tls":             c.Server.TLS != nil && c.Server.TLS.ClientAuth == "required" && c.Server.TLS.ClientCABundle == ca.File(),
		"global.trusted_proxies": len(c.TrustedProxies()) == 1,
		"global.access_policy":   c.Global.AccessPolicy.Default == PolicyAllow && len(c.Global.AccessPolicy.Rules) == 1,
		"access_policy":          block.AccessPolicy.Default == PolicyDeny && len(block.AccessPolicy.Rules) == 1,
		"authorization_webhook":  c.Global.AuthorizationWebhook == "opa" && *block.AuthorizationWebhook == "opa",
		"auth.identity":          c.Auth.Identities[0].Username == "ci",
		"keys of the issuer":     issuer.JWKSURI != "" && issuer.BearerTokenFile == token && issuer.ServerCABundle == ca.File() && issuer.ClientCertificateBundle == certificate && issuer.ClientPrivateKey == key,
		"claims":                 issuer.RequiredAudience == "mirror" && issuer.RequiredClaims[0] == "sub" && issuer.AllowedAlgorithms[0] == "ES256",
		"times of the issuer":    issuer.ClockSkewTolerance == 5*time.Second && issuer.JWKSRefreshInterval == time.Minute && issuer.HTTPRequestTimeout == 3*time.Second && issuer.JWKSRefreshTimeout == 4*time.Second,
		"auth.token_service":     c.Auth.TokenService.TTL == 5*time.Minute && c.Auth.TokenService.Realm == "https://mirror.example.com/token",
		"auth.webhook":           hook.TimeoutMS == 500 && hook.CacheTTL == 7*time.Second && hook.ForwardHeaders[0] == "Authorization" && hook.BearerToken.Reveal() == "a-token" && hook.ServerCABundle == ca.File() && hook.ClientCertificate == certificate,
	} {
		if !holds {
			t.Errorf("%s does not count: %+v", name, c.Auth)
		}
	}
}
