package config

import (
	"strings"
	"testing"
	"time"
)

const (
	github  = "[auth.oidc.github]\nissuer = \"https://token.actions.githubusercontent.com\"\n"
	service = "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
)

func TestOIDC(t *testing.T) {
	c := mustLoad(t, docker+github+"required_claims = [\"repository\"]\njwks_refresh_interval = 60\n"+service+"realm = \"https://mirror.example.com/x/token\"\n[auth.groups]\nci = [\"oidc:github\"]\n")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	one := c.Auth.OIDC[0]
	if c.Auth.Anonymous || one.Key != "github" || one.ClockSkewTolerance != time.Minute || one.JWKSRefreshInterval != time.Minute || one.AllowedAlgorithms[0] != "RS256" {
		t.Errorf("%+v", c.Auth)
	}
	if key, err := c.Auth.TokenService.Key(); err != nil || len(key) != 32 || c.Auth.TokenService.TTL != time.Hour {
		t.Errorf("%v, %v", key, err)
	}
	printed := effective(t, c)
	if strings.Contains(printed, "AAEC") {
		t.Error(printed)
	}
	again := strings.Replace(printed, "[redacted]", c.Auth.TokenService.SecretKey.Reveal(), 1)
	if d := diff(c, mustLoad(t, again)); d != "" {
		t.Errorf("comes back different: %s", d)
	}
}

// The older key provider is understood, with a warning.
func TestOIDCProvider(t *testing.T) {
	for text, want := range map[string]string{
		"[auth.oidc.ci]\nprovider = \"github\"\n":                                  `auth.oidc.ci.provider (CONFIG:5) is an older spelling. Write issuer = "https://token.actions.githubusercontent.com"`,
		"[auth.oidc.ci]\nprovider = \"generic\"\nissuer = \"https://x.example\"\n": `auth.oidc.ci.provider (CONFIG:5) is an older spelling. Write issuer alone`,
	} {
		file := write(t, "config.toml", docker+text)
		c, err := Load(file)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Warnings(), "\n"); !strings.Contains(strings.ReplaceAll(got, file, "CONFIG"), want) || c.Auth.OIDC[0].Issuer == "" {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
}

func TestOIDCProblems(t *testing.T) {
	const at = "config.toml:"
	for text, want := range map[string]string{
		"[auth.oidc.ci]\n": at + "1: auth.oidc.ci.issuer: is missing",
		"[auth.oidc.ci]\nissuer = \"https://x.example/r/.well-known/openid-configuration\"":   at + `2: auth.oidc.ci.issuer: is the address of the discovery document; write the issuer as its tokens name it, such as "https://x.example/r"`,
		github + "jwks_uri = \"http://x.example/keys\"":                                       at + "3: auth.oidc.github.jwks_uri: must begin with https://, as issuer does; otherwise an attacker on the network path can replace the keys and forge tokens",
		"[auth.oidc.ci]\nissuer = \"http://x.internal\"\njwks_uri = \"http://keys.internal\"": "",
		"[auth.oidc]\nissuer = \"https://x.example\"":                                         at + "2: auth.oidc.issuer: must be in a table with a name, such as [auth.oidc.NAME], not a string",
		"[oidc.ci]\nissuer = \"https://x.example\"":                                           at + "1: oidc: unknown key; did you mean [auth.oidc]?",
		"[auth.oidc.ci]\nissuer = \"example.com\"":                                            at + `2: auth.oidc.ci.issuer: must be a URL such as "https://issuer.example.com"`,
		"[auth.oidc.ci]\nissuer = \"https://x.example\"\nprovider = \"gitlab\"":               at + `3: auth.oidc.ci.provider: must be "github" or "generic"; provider is an older key, so remove it and set only issuer`,
		github + "allowed_algorithms = [\"HS256\"]":                                           at + `3: auth.oidc.github.allowed_algorithms[0]: "HS256" would accept tokens that anyone can forge; use one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`,
		github + "allowed_algorithms = [\"RS256\", \"none\"]":                                 at + `3: auth.oidc.github.allowed_algorithms[1]: "none" would accept tokens that anyone can forge; use one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`,
		github + "allowed_algorithms = []":                                                    at + `3: auth.oidc.github.allowed_algorithms: must name at least one, such as "RS256"`,
		github + "jwks_refresh_interval = 0":                                                  at + "3: auth.oidc.github.jwks_refresh_interval: must be larger than 0",
		github + "jwks_refresh_interval = \"1h\"":                                             at + "3: auth.oidc.github.jwks_refresh_interval: must be a whole number, not a string",
		github + "client_private_key = \"k\"":                                                 at + "1: auth.oidc.github.client_certificate_bundle: is missing: client_private_key is set, and the two must be set together",
		github + "bearer_token_file = \"/nowhere\"":                                           at + "3: auth.oidc.github.bearer_token_file: cannot read the file: stat /nowhere: no such file or directory",
		github + strings.Replace(github, "github]", "other]", 1):                              at + "4: auth.oidc.other.issuer: is also the issuer of auth.oidc.github",
		"[auth.groups]\nci = [\"oidc:github\"]":                                               at + `2: auth.groups.ci[0]: "oidc:github" names no issuer: there is no [auth.oidc.github]`,
		"[auth.token_service]\n":                                                              at + "1: auth.token_service.secret_key: is missing; make one with: openssl rand -base64 32",
		"[auth.token_service]\nsecret_key = \"secret!\"":                                      at + "2: auth.token_service.secret_key: must be base64; make one with: openssl rand -base64 32",
		"[auth.token_service]\nsecret_key = \"AAAA\"":                                         at + "2: auth.token_service.secret_key: must have at least 32 bytes; make one with: openssl rand -base64 32",
		service + "realm = \"https://x.example/tokens\"":                                      at + `3: auth.token_service.realm: must be the URL at which clients reach /token here, such as "https://mirror.example.com/token"`,
		service + "realm = \"/token\"":                                                        at + `3: auth.token_service.realm: must be the URL at which clients reach /token here, such as "https://mirror.example.com/token"`,
		service + "realm = \"https://x.example/token?a=/token\"":                              at + `3: auth.token_service.realm: must be the URL at which clients reach /token here, such as "https://mirror.example.com/token"`,
		service + "ttl_secs = 0":                                                              at + "3: auth.token_service.ttl_secs: must be between 1 and 86400",
		service + "ttl_secs = 1":                                                              "",
		service + "ttl_secs = 86400":                                                          "",
		service + "ttl_secs = 86401":                                                          at + "3: auth.token_service.ttl_secs: must be between 1 and 86400",
	} {
		if got := problemsOf(t, text); got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", text, got, want)
		}
	}
}
