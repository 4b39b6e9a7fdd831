package access_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/testutil"
)

func TestParseHash(t *testing.T) {
	sum := "$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI"
	for name, c := range map[string]struct{ text, want string }{
		"bcrypt of htpasswd":     {secretBcrypt, ""},
		"bcrypt of others":       {"$2a" + secretBcrypt[3:], ""},
		"bcrypt of OpenBSD":      {"$2b" + secretBcrypt[3:], ""},
		"Argon2id":               {secretArgon2, ""},
		"Argon2i":                {secretArgon2i, ""},
		"the greatest memory":    {"$argon2id$v=19$m=262144,t=5,p=1" + sum, ""},
		"the greatest cost":      {"$2y$15$" + secretBcrypt[7:], ""},
		"nothing":                {"", "is not a bcrypt"},
		"a password":             {"secret", "is not a bcrypt"},
		"MD5 of htpasswd":        {"$apr1$salt$qmUo8D1LXY5ZzH9cGTLLH/", "htpasswd -B"},
		"crypt of htpasswd":      {"rl5FQRsL4S8bA", "htpasswd -B"},
		"SHA-1 of htpasswd":      {"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "htpasswd -B"},
		"SHA-512 of crypt":       {"$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g.", "htpasswd -B"},
		"yescrypt":               {"$y$j9T$salt$sum", "htpasswd -B"},
		"scrypt":                 {"$scrypt$ln=16,r=8,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", "weir auth hash"},
		"the faulty bcrypt":      {"$2x" + secretBcrypt[3:], "is not a bcrypt"},
		"a cut bcrypt":           {secretBcrypt[:59], "is not a bcrypt"},
		"a longer bcrypt":        {secretBcrypt + "x", "is not a bcrypt"},
		"a bcrypt with a blank":  {secretBcrypt[:59] + " ", "is not a bcrypt"},
		"bcrypt of 7 s":          {"$2y$16$" + secretBcrypt[7:], "more than 5 s"},
		"bcrypt of years":        {"$2y$31$" + secretBcrypt[7:], "more than 5 s"},
		"bcrypt of cost 99":      {"$2y$99$" + secretBcrypt[7:], "is not a bcrypt"},
		"Argon2d":                {"$argon2d$v=19$m=64,t=1,p=1" + sum, "is not a bcrypt"},
		"an old Argon2":          {"$argon2id$v=16$m=64,t=1,p=1" + sum, "is not a bcrypt"},
		"Argon2 of 257 MiB":      {"$argon2id$v=19$m=263168,t=1,p=1" + sum, "more than 256 MiB"},
		"Argon2 of 4 TiB":        {"$argon2id$v=19$m=4294967295,t=1,p=1" + sum, "more than 256 MiB"},
		"Argon2 beyond 32 bits":  {"$argon2id$v=19$m=4294967296,t=1,p=1" + sum, "is not a bcrypt"},
		"Argon2 of 6 s":          {"$argon2id$v=19$m=262144,t=6,p=1" + sum, "more than 5 s"},
		"Argon2 of many passes":  {"$argon2id$v=19$m=64,t=4294967295,p=1" + sum, "more than 5 s"},
		"Argon2 of many threads": {"$argon2id$v=19$m=65536,t=1,p=255" + sum, "too many threads"},
		"Argon2 of no threads":   {"$argon2id$v=19$m=64,t=1,p=0" + sum, "is not a bcrypt"},
		"Argon2 of no passes":    {"$argon2id$v=19$m=64,t=0,p=1" + sum, "is not a bcrypt"},
		"Argon2 without costs":   {"$argon2id$v=19$" + sum, "is not a bcrypt"},
		"costs out of order":     {"$argon2id$v=19$t=1,m=64,p=1" + sum, "is not a bcrypt"},
		"a negative cost":        {"$argon2id$v=19$m=-64,t=1,p=1" + sum, "is not a bcrypt"},
		"a short salt":           {"$argon2id$v=19$m=64,t=1,p=1$c2E$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI", "is not a bcrypt"},
		"a short sum":            {"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$TnDEl2s", "is not a bcrypt"},
		"an empty sum":           {"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$", "is not a bcrypt"},
		"a sum of 4 KiB":         {"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$" + strings.Repeat("AAAA", 1000), "is not a bcrypt"},
		"padded base64":          {"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ=$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI=", "is not a bcrypt"},
		"a line break":           {secretArgon2 + "\n", "is not a bcrypt"},
	} {
		hash, err := access.ParseHash(c.text)
		if c.want == "" {
			if err != nil || hash == nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && c.text != "" && strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: the error quotes the hash: %v", name, err)
		}
	}
}

func TestMatches(t *testing.T) {
	for name, text := range map[string]string{"bcrypt": secretBcrypt, "Argon2id": secretArgon2, "Argon2i": secretArgon2i, "own": access.NewHash("secret")} {
		hash, err := access.ParseHash(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for password, want := range map[string]bool{"secret": true, "Secret": false, "secret ": false, "": false, strings.Repeat("secret", 1000): false} {
			if hash.Matches(password) != want {
				t.Errorf("%s: %q", name, password)
			}
		}
	}
}

// Files that htpasswd(1) writes are read, and those of its weaker hashes are refused.
func TestHtpasswdProgram(t *testing.T) {
	htpasswd := testutil.Program(t, "htpasswd", "apache2-utils")
	for option, want := range map[string]string{"-B": "", "-m": "htpasswd -B", "-s": "htpasswd -B", "-d": "htpasswd -B", "-5": "htpasswd -B"} {
		args := []string{option, "-b", "-n", "alice", "secret"}
		if option == "-B" {
			args = append([]string{"-C", "5"}, args...)
		}
		out, err := exec.CommandContext(t.Context(), htpasswd, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", option, err)
		}
		accounts, err := access.ParseHtpasswd(string(out))
		switch {
		case want == "" && (err != nil || len(accounts) != 1 || accounts[0].User != "alice" || !accounts[0].Hash.Matches("secret")):
			t.Errorf("%s: %v, %v", option, accounts, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", option, err)
		}
	}
}

func TestParseHtpasswd(t *testing.T) {
	good := "alice:" + secretBcrypt + "\n"
	for name, c := range map[string]struct {
		text  string
		users int
		want  string
	}{
		"no user":                     {"", 0, ""},
		"comments and blank lines":    {"# users\n\n  \n" + good, 1, ""},
		"carriage returns":            {"alice:" + secretBcrypt + "\r\nbob:" + secretArgon2 + "\r\n", 2, ""},
		"no line break at the end":    {good + "bob:" + secretArgon2, 2, ""},
		"a name beyond ASCII":         {"Zoë:" + secretBcrypt, 1, ""},
		"a user twice":                {good + "bob:" + secretArgon2 + "\n" + good, 0, `line 3: the user "alice" is also on line 1`},
		"a user twice, once wrong":    {"alice:x\n" + good, 0, "line 1"},
		"a line that is cut":          {good + "bob:$2y$05$abc", 0, `line 2: the password of "bob" is not a bcrypt`},
		"a line without a colon":      {good + "bob", 0, "line 2: is not of the form"},
		"a line without a name":       {":" + secretBcrypt, 0, "line 1: is not of the form"},
		"a name with a control":       {"al\x00ice:" + secretBcrypt, 0, "line 1: is not of the form"},
		"a name of 300 bytes":         {strings.Repeat("a", 300) + ":" + secretBcrypt, 0, "line 1: is not of the form"},
		"a second field":              {"alice:" + secretBcrypt + ":comment", 0, "line 1"},
		"a file of another kind":      {strings.Repeat("port = 8000\n", 1000), 0, "and 990 more"},
		"a hash that costs too much":  {"alice:$2y$20$" + secretBcrypt[7:], 0, "more than 5 s"},
		"two problems are both named": {"bob\nalice:x", 0, "line 2"},
	} {
		accounts, err := access.ParseHtpasswd(c.text)
		switch {
		case c.want == "" && (err != nil || len(accounts) != c.users):
			t.Errorf("%s: %d users, %v", name, len(accounts), err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
