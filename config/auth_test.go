package config

import (
	"strings"
	"testing"
	"time"
)

// secretHash is the hash of the word "secret", with the least cost of bcrypt.
const secretHash = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"

const alice = "[auth.identity.alice]\nusername = \"alice\"\npassword = \"" + secretHash + "\"\n"

func TestAuth(t *testing.T) {
	users := write(t, "htpasswd", "bob:"+secretHash+"\n")
	c := mustLoad(t, docker+alice+"expires = \"2027-01-01\"\n[auth]\nhtpasswd = \""+users+"\"\nrealm = \"Team\"\n"+
		"[auth.groups]\nci = [\"alice\", \"cert:node-*\"]\n\"all of us\" = []\n")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	one := c.Auth.Identities[0]
	if c.Auth.Anonymous || one.Key != "alice" || one.Password != secretHash || !one.Expires.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", c.Auth)
	}
	printed := effective(t, c)
	if strings.Contains(printed, secretHash) || !strings.Contains(printed, `groups = { "all of us" = [], "ci" = ["alice", "cert:node-*"] }`) {
		t.Error(printed)
	}
	if d := diff(withoutSecrets(c), withoutSecrets(mustLoad(t, strings.Replace(printed, "[redacted]", secretHash, 1)))); d != "" {
		t.Errorf("comes back different: %s", d)
	}
	if files := strings.Join(c.Files(), " "); !strings.Contains(files, users) {
		t.Errorf("the file of users is not watched: %s", files)
	}
}

// Requests without credentials are let in if no client could have any, unless the
// configuration says otherwise.
func TestAnonymous(t *testing.T) {
	users := write(t, "htpasswd", "")
	for text, want := range map[string]bool{
		"":                                     true,
		"[auth]\n":                             true,
		"[auth]\nrealm = \"Team\"\n":           true,
		"[auth.groups]\nci = [\"alice\"]\n":    true,
		"[auth]\nanonymous = false\n":          false,
		"[auth]\nhtpasswd = \"" + users + "\"": false,
		alice:                                  false,
		alice + "[auth]\nanonymous = true\n":   true,
		alice + "[auth]\nanonymous = false\n":  false,
	} {
		c := mustLoad(t, docker+text)
		if err := c.Validate(); err != nil || c.Auth.Anonymous != want {
			t.Errorf("%q: %v, %v", text, c.Auth.Anonymous, err)
		}
	}
}

func TestAuthProblems(t *testing.T) {
	bad := write(t, "htpasswd", "bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbob\n")
	users := write(t, "users", "alice:"+secretHash+"\n")
	second := strings.Replace(alice, "identity.alice", "identity.other", 1)
	const at = "config.toml:"
	for text, want := range map[string]string{
		"[auth.identity.ci]\npassword = \"" + secretHash + "\"": at + "1: auth.identity.ci.username: is missing",
		"[auth.identity.ci]\nusername = \"ci\"":                 at + "1: auth.identity.ci.password: is missing; `weir auth hash` makes one",
		strings.Replace(alice, secretHash, "secret", 1):         at + "3: auth.identity.alice.password: is not a bcrypt or Argon2 hash of a password. `weir auth hash` and `htpasswd -B` write such hashes",
		strings.Replace(alice, "$2y$04", "$2y$17", 1):           at + "3: auth.identity.alice.password: has bcrypt cost 17: verifying it would take more than 5 s. Use at most 15",
		strings.Replace(alice, `"alice"`, `"al:ice"`, 1):        at + "2: auth.identity.alice.username: must not contain a colon or a control character, and must not be longer than 255 bytes",
		alice + second: at + `5: auth.identity.other.username: "alice" is also the user of auth.identity.alice`,
		alice + "[auth]\nhtpasswd = \"" + users + "\"\n": at + `2: auth.identity.alice.username: "alice" is also the user of ` + users,
		alice + "expires = \"tomorrow\"":                 at + `4: auth.identity.alice.expires: "tomorrow" is not a date; write one like "2027-01-01" or "2027-01-01T12:00:00Z"`,
		alice + "expires = \"2027-02-30\"":               at + `4: auth.identity.alice.expires: "2027-02-30" is not a date; write one like "2027-01-01" or "2027-01-01T12:00:00Z"`,
		alice + "expires = 2027-01-01":                   at + "4: auth.identity.alice.expires: must be a string, not a date or time",
		alice + "pasword = \"x\"":                        at + `4: auth.identity.alice.pasword: unknown key; did you mean "password"?`,
		"[auth]\nrealm = \"a\\nb\"":                      at + `2: auth.realm: must be printable ASCII text, such as "Weir"`,
		"[auth]\nhtpasswd = \"/nowhere\"":                at + "2: auth.htpasswd: cannot read the file: stat /nowhere: no such file or directory",
		"[auth]\nhtpasswd = \"" + bad + "\"": at + "2: auth.htpasswd: " + bad + `: line 1: the password of "bob" is not a bcrypt or Argon2 hash of a password. ` +
			"`weir auth hash` and `htpasswd -B` write such hashes\nline 2: is not of the form user:hash",
		"[auth.groups]\nci = \"alice\"":               at + "2: auth.groups.ci: must be an array of strings, not a string",
		"[auth]\ngroups = [\"ci\"]":                   at + `2: auth.groups: must be a table of lists such as ci = ["alice"], not an array`,
		"[auth.groups]\nci = [\"alice\", \"@all\"]":   at + `2: auth.groups.ci[1]: "@all" is a group; name its members`,
		"[auth.groups]\nci = [\"cidr:10.0.0.1/8\"]":   at + `2: auth.groups.ci[0]: "cidr:10.0.0.1/8" has address bits beyond its prefix; write cidr:10.0.0.0/8, or the address alone`,
		"[auth.groups]\nci = [\"ldap:alice\"]":        at + `2: auth.groups.ci[0]: "ldap:alice" does not begin with cert:, cidr: or oidc:, which are the known kinds of rules`,
		"[auth.identity]\nusername = \"alice\"":       at + `2: auth.identity.username: must be in a table with a name, such as [auth.identity.NAME], not a string`,
		"[auth.webhook]\ntimeout_ms = 5":              at + `2: auth.webhook.timeout_ms: must be in a table with a name, such as [auth.webhook.NAME], not a whole number`,
		"[identity.alice]\nusername = \"alice\"":      at + `1: identity: unknown key; did you mean [auth.identity]?`,
		"[auth]\nidentity = \"alice\"":                at + "2: auth.identity: must be tables such as [auth.identity.NAME], not a string",
		"[auth.groups]\n\"a:b\" = []":                 at + `2: auth.groups."a:b": is not a valid name of a group: it must not contain a colon or a control character, and must not be longer than 255 bytes`,
		alice + "password_file = \"" + users + "\"\n": at + "4: auth.identity.alice.password_file: auth.identity.alice.password is also set (config.toml:3); set only one of the two",
	} {
		if got := problemsOf(t, text); got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", text, got, want)
		}
	}
}

// A mirror for everyone is warned about, unless only this machine reaches it.
func TestOpenMirrorIsWarnedAbout(t *testing.T) {
	everywhere := "[server]\nbind_address = \"0.0.0.0\"\n"
	for text, want := range map[string]string{
		docker:                      "",
		everywhere + docker:         "Set auth.htpasswd",
		everywhere + docker + alice: "",
		everywhere + docker + alice + "[auth]\nanonymous = true\n":           "does not authenticate its clients",
		everywhere + docker + "username = \"u\"\npassword = \"p\"\n":         "Every client can read everything that these credentials can read",
		everywhere + docker + "username = \"u\"\npassword = \"p\"\n" + alice: "",
	} {
		got := strings.Join(mustLoad(t, text).Warnings(), "\n")
		if want == "" && strings.Contains(got, "authenticate") || !strings.Contains(got, want) {
			t.Errorf("%s\n%s", text, got)
		}
	}
}

func TestIdentityInTheEnvironment(t *testing.T) {
	t.Setenv("WEIR_AUTH_IDENTITY_ALICE_PASSWORD", strings.Replace(secretHash, "$04", "$05", 1))
	t.Setenv("WEIR_AUTH_ANONYMOUS", "true")
	file := write(t, "config.toml", docker+alice)
	c, err := Load(file)
	if err != nil || !c.Auth.Anonymous || !strings.HasPrefix(c.Auth.Identities[0].Password.Reveal(), "$2y$05") {
		t.Errorf("%+v, %v", c, err)
	}
}
