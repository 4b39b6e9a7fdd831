package config

import (
	"strings"
	"testing"
)

// The table is about each kind of secret: all of them may come from files.
func TestOddSecretFiles(t *testing.T) {
	for _, kind := range []struct{ name, key, before, good string }{
		{"password", `repository."docker.io".upstream[0].password_file`, docker + "username = \"u\"\npassword_file = ", "s3cret"},
		{"proxy", `repository."docker.io".upstream[0].proxy_file`, docker + "proxy_file = ", "http://u:s3cret@proxy:3128"},
		{"redis", `cache.redis.url_file`, docker + "[cache.redis]\nurl_file = ", "redis://:s3cret@cache:6379"},
		{"tracing", `observability.tracing.endpoint_file`, docker + "[observability.tracing]\nendpoint_file = ", "http://u:s3cret@otel:4318"},
	} {
		for name, test := range map[string]struct {
			content          string
			warning, problem string // "" for none
		}{
			"plain":                    {content: kind.good},
			"newline":                  {content: kind.good + "\n"},
			"CRLF":                     {content: kind.good + "\r\n"},
			"letters beyond ASCII":     {content: "pässwörd-" + kind.good, warning: "-"},
			"blank after it":           {content: kind.good + " \n", warning: "ends with white space"},
			"tab after it":             {content: kind.good + "\t", warning: "ends with white space"},
			"blank before it":          {content: " " + kind.good, warning: "begins with white space"},
			"no-break space":           {content: kind.good + "\u00a0", warning: "ends with white space"},
			"two newlines":             {content: kind.good + "\n\n", warning: "has more than one line"},
			"two CRLF":                 {content: kind.good + "\r\n\r\n", warning: "has more than one line"},
			"two lines":                {content: kind.good + "\nsecond", warning: "has more than one line"},
			"zero width space":         {content: kind.good + "\u200b\n", warning: "invisible character"},
			"NUL":                      {content: kind.good + "\x00", warning: "invisible character"},
			"Latin-1":                  {content: kind.good + "\xe9", warning: "is not UTF-8"},
			"byte order mark":          {content: "\ufeff" + kind.good + "\r\n", problem: "begins with a byte order mark"},
			"UTF-16":                   {content: "\xff\xfes\x003\x00", problem: "is UTF-16"},
			"UTF-16, big-endian":       {content: "\xfe\xff\x00s\x003", problem: "is UTF-16"},
			"empty":                    {content: "", problem: "is empty"},
			"nothing but a line end":   {content: "\r\n", problem: "is empty"},
			"mark and nothing further": {content: "\ufeff", problem: "begins with a byte order mark"},
		} {
			c, err := Load(write(t, "config.toml", kind.before+quote(write(t, "secret", test.content))+"\n"))
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), kind.key) || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("%s, %s: %v", kind.name, name, err)
				}
				continue
			}
			if err != nil {
				// An odd URL may be none, which is a problem of its own.
				if kind.name == "password" || test.warning == "" {
					t.Errorf("%s, %s: %v", kind.name, name, err)
				}
				continue
			}
			warnings := strings.Join(c.Warnings(), "\n")
			switch {
			case test.warning == "" || test.warning == "-":
				if warnings != "" {
					t.Errorf("%s, %s: %s", kind.name, name, warnings)
				}
			case !strings.Contains(warnings, test.warning) || !strings.Contains(warnings, kind.key):
				t.Errorf("%s, %s: %q", kind.name, name, warnings)
			}
			if strings.Contains(warnings, "s3cret") {
				t.Errorf("%s, %s: the warning shows the secret: %s", kind.name, name, warnings)
			}
			if want := strings.TrimSuffix(strings.TrimSuffix(test.content, "\n"), "\r"); kind.name == "password" && c.Namespaces[0].Upstreams[0].Password.Reveal() != want {
				t.Errorf("%s is %q, want %q", name, c.Namespaces[0].Upstreams[0].Password.Reveal(), want)
			}
		}
	}
}
