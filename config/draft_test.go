package config

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// hostileTexts are texts that could end a string of TOML, name something or be unreadable.
var hostileTexts = []string{
	`"`, `'`, `"""`, `\`, `\"`, "\n", "a\nb", "\r\n", "a\r", "]", "]]", `x"]` + "\n[server]\nport = 1\n#", "=", "#", "# comment",
	"${HOME}", "$${HOME}", "$$", "$", "${", "a${PATH}b", "../", "../../etc/passwd", "/etc/shadow", "\x00", "a\x00b", "\x7f", "\u0085", "\u2028", "\u202e",
	"\xff", "\xc3(", "\ufeff", "日本語", "é", "e\u0301", strings.Repeat("x", 100), strings.Repeat("x", 300), strings.Repeat("x", 20_000), " ", " a ", "\t", "a.b", "a]b", "{}",
}

// A draft loads as exactly the values that it has, or is refused.
func TestDraftIsWhatItSays(t *testing.T) {
	t.Setenv("HOME", "/root/secret")
	usual := Draft{Key: "registry.example", URL: "https://registry.example", Username: "user", Password: "password"}
	kept := 0
	try := func(d Draft) {
		t.Helper()
		c, err := d.Load(false)
		if err != nil {
			if text := err.Error(); d.Password != usual.Password && strings.Contains(text, d.Password.Reveal()) && len(d.Password) > 2 {
				t.Errorf("the problem names the password %q: %s", d.Password.Reveal(), text)
			}
			return
		}
		if len(c.Namespaces) != 1 || len(c.Namespaces[0].Upstreams) != 1 {
			t.Fatalf("%+v: %+v", d, c.Namespaces)
		}
		kept++
		n, u := c.Namespaces[0], c.Namespaces[0].Upstreams[0]
		written, err := url.Parse(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		if n.Key != d.Key || u.URL.String() != written.String() || u.Username != d.Username || u.Password != d.Password || u.Reach != ReachPublic {
			t.Errorf("%+v is loaded as %+v", d, n)
		}
		if u.ServerCABundle != "" || u.ClientCertificate != "" || u.CredentialHelper != "" || !reflect.DeepEqual(c.Server, base().Server) || c.UI != base().UI {
			t.Errorf("%+v sets other keys: %+v", d, c)
		}
	}
	for _, text := range hostileTexts {
		for _, change := range []func(d *Draft){
			func(d *Draft) { d.Key = text },
			func(d *Draft) { d.Key += text },
			func(d *Draft) { d.URL = text },
			func(d *Draft) { d.URL += "/" + text },
			func(d *Draft) { d.Username = text },
			func(d *Draft) { d.Password = Secret(text) },
			func(d *Draft) { d.Username, d.Password = text, Secret(text) },
		} {
			d := usual
			change(&d)
			try(d)
		}
	}
	if kept < 50 {
		t.Errorf("only %d drafts were loaded", kept)
	}
}

// Each refusal is about the text that is wrong.
func TestRefusedDrafts(t *testing.T) {
	usual := Draft{Key: "registry.example", URL: "https://registry.example", Username: "user", Password: "password"}
	const at = `repository."registry.example".upstream[0]`
	for _, c := range []struct {
		change    func(d *Draft)
		key, says string
	}{
		{func(d *Draft) { d.Key = "" }, `repository.""`, "first segments"},
		{func(d *Draft) { d.Key = "../x" }, `repository."../x"`, "first segments"},
		{func(d *Draft) { d.Key = strings.Repeat("k", 129) }, "repository." + strings.Repeat("k", 129), "128 bytes"},
		{func(d *Draft) { d.URL = "" }, at + ".url", "is missing"},
		{func(d *Draft) { d.URL = "file:///etc/passwd" }, at + ".url", "https://"},
		{func(d *Draft) { d.URL = "https://a:b@c" }, at + ".url", "must not contain credentials"},
		{func(d *Draft) { d.URL = "https://h/${HOME}" }, at + ".url", "variables"},
		{func(d *Draft) { d.Username = "${HOME}" }, at + ".username", "variables"},
		{func(d *Draft) { d.Username = "a\u202eb" }, at + ".username", "cannot be seen"},
		{func(d *Draft) { d.Username = "" }, at + ".username", "come together"},
		{func(d *Draft) { d.Password = "" }, at + ".password", "come together"},
		{func(d *Draft) { d.Password = "a\nb" }, at + ".password", "one line"},
		{func(d *Draft) { d.Password = "\xff" }, at + ".password", "UTF-8"},
		{func(d *Draft) { d.Helper = "ecr-login" }, "", "by hand"},
		{func(d *Draft) { d.Authority = true }, "", "by hand"},
		{func(d *Draft) { d.Certificate = true }, "", "by hand"},
	} {
		d := usual
		c.change(&d)
		_, err := d.Load(true)
		problems, ok := err.(Problems)
		if !ok || problems[0].Key != c.key || !strings.Contains(problems[0].Err.Error(), c.says) {
			t.Errorf("%+v: %v, want %s: %s", d, err, c.key, c.says)
		}
	}
}

// The text for people is TOML with paths to fill in, and holds no password.
func TestTextOfDraft(t *testing.T) {
	d := Draft{Key: "registry.example:5000/team", URL: "https://registry.example:5000", Username: `a"b`, Password: "hunter2", Default: true, Helper: "ecr-login", Authority: true, Certificate: true}
	text := d.Text()
	for _, want := range []string{`[repository."registry.example:5000/team"]`, "default = true", `username = "a\"b"`, `password_file = "/etc/weir/registry.example_5000_team.password"`, `credential_helper = "ecr-login"`, "server_ca_bundle", "client_private_key"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("the password is shown:\n%s", text)
	}
	document, problem := parseDocument("", text)
	if problem != nil {
		t.Fatal(problem)
	}
	if _, problems := decode(document); len(problems) != 1 || !strings.Contains(problems[0].Error(), "password_file") { // the file is not there
		t.Errorf("%v", problems)
	}
}
