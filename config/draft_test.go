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
		{func(d *Draft) { d.URL = "https://h/${HOME}" }, at + ".url", "environment variable"},
		{func(d *Draft) { d.Username = "${HOME}" }, at + ".username", "environment variable"},
		{func(d *Draft) { d.Username = "a\u202eb" }, at + ".username", "invisible character"},
		{func(d *Draft) { d.Username = "" }, at + ".username", "set together"},
		{func(d *Draft) { d.Password = "" }, at + ".password", "set together"},
		{func(d *Draft) { d.Password = "a\nb" }, at + ".password", "one line"},
		{func(d *Draft) { d.Password = "\xff" }, at + ".password", "UTF-8"},
		{func(d *Draft) { d.Helper = ECRHelper }, at + ".url", "Amazon ECR"},
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

// A credential helper is run for addresses of Amazon ECR only, and no other program at all.
func TestHelperOfADraft(t *testing.T) {
	const account = "https://123456789012.dkr.ecr."
	for url, want := range map[string]bool{
		account + "eu-central-1.amazonaws.com": true, account + "cn-north-1.amazonaws.com.cn": true, account + "us-gov-west-1.amazonaws.com/": true,
		account + "eu-central-1.amazonaws.com.evil.example": false, account + "evil.example": false, account + "evil.example/eu.amazonaws.com": false,
		account + "a.b.amazonaws.com": false, account + "eu-central-1.amazonaws.com:5000": false, account + "-.amazonaws.com": false, account + ".amazonaws.com": false,
		"http://123456789012.dkr.ecr.eu-central-1.amazonaws.com": false, "https://12345678901.dkr.ecr.eu-central-1.amazonaws.com": false,
		"https://a@123456789012.dkr.ecr.eu-central-1.amazonaws.com": false, "https://x.123456789012.dkr.ecr.eu-central-1.amazonaws.com": false,
		account + "eu-central-1xamazonaws.com": false, account + "eu-central-1.amazonaws.com.": false, "https://registry.example": false,
	} {
		c, err := Draft{Key: "ecr.example", URL: url, Helper: ECRHelper}.Load(false)
		if (err == nil) != want || err == nil && c.Namespaces[0].Upstreams[0].CredentialHelper != ECRHelper {
			t.Errorf("%s: %v, want %t", url, err, want)
		}
		for _, other := range []string{"pass", "/bin/sh", "ecr-login ", "../ecr-login"} {
			if _, err := (Draft{Key: "ecr.example", URL: url, Helper: other}).Load(false); err == nil {
				t.Errorf("the helper %q is accepted", other)
			}
		}
	}
}

// The text to paste has the built-in blocks if it would end them.
func TestPaste(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		c, err := Load(write(t, "config.toml", text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		return c
	}
	none := load("")
	private := Draft{Key: "registry.example", URL: "https://registry.example"}
	hub := Draft{Key: "docker.io", URL: "https://registry-1.docker.io", Default: true}
	for draft, want := range map[Draft]int{private: len(none.Namespaces) + 1, hub: len(none.Namespaces)} {
		c := load(none.Paste(draft))
		if len(c.Namespaces) != want {
			t.Errorf("%s: %d blocks, want %d", draft.Key, len(c.Namespaces), want)
		}
		for _, n := range c.Namespaces {
			if n.Default != (n.Key == "docker.io") || len(n.Upstreams) != 1 {
				t.Errorf("%s: %+v", draft.Key, n)
			}
		}
	}
	files := load("[[repository.\"registry.example\".upstream]]\nurl = \"https://other.example\"\n")
	if text := files.Paste(hub); text != hub.Text() {
		t.Errorf("beside a file with blocks: %s", text)
	}
	if text := files.Paste(private); !strings.HasPrefix(text, "# The mirror has a block of this name.") || !strings.HasSuffix(text, private.Text()) {
		t.Errorf("in place of a block: %s", text)
	}
	if files.IsBuiltIn("registry.example") || files.IsBuiltIn("docker.io") || !none.IsBuiltIn("docker.io") {
		t.Error("the wrong blocks are built in")
	}
}

// The file of a draft is known as long as it is not changed.
func TestParseFile(t *testing.T) {
	for _, d := range []Draft{
		{Key: "registry.example", URL: "https://registry.example"},
		{Key: "registry.example:5000/team", URL: "https://registry.example:5000/", Username: `a"b`, Password: `$${HOME}"\`, Default: true},
		{Key: "docker.io", URL: "https://registry-1.docker.io", Username: "user", Password: "${HOME}$"},
	} {
		got, intact := parseFile("/conf.d/"+d.FileName(), d.File())
		if !intact || got != d {
			t.Errorf("%+v is read as %+v, %t", d, got, intact)
		}
		for name, text := range map[string]string{
			"other.toml": d.File(), d.FileName(): d.File() + "\n", "./" + d.FileName(): strings.Replace(d.File(), "url", "max_redirect = 1\nurl", 1), "x/" + d.FileName(): "[",
		} {
			if _, intact := parseFile(name, text); intact {
				t.Errorf("%s is taken for the mirror's own:\n%s", name, text)
			}
		}
	}
}
