package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLoadWithoutPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	etc := filepath.Join(t.TempDir(), "config.toml")
	load := func() *Config {
		t.Helper()
		files, _ := firstOf([]string{"config.toml", etc})
		c, err := Source{Files: files}.Load()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if d := diff(Default(), load()); d != "" {
		t.Errorf("no file: %s", d)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(etc, "[server]\nport = 1\n")
	if got := load().Server.Port; got != 1 {
		t.Errorf("/etc: port %d", got)
	}
	put("config.toml", "[server]\nport = 2\n")
	if got := load().Server.Port; got != 2 {
		t.Errorf("working directory: port %d", got)
	}
	c, err := Load()
	if err != nil || c.Server.Port != 2 {
		t.Errorf("Load(): %v, %v", c, err)
	}
}

func TestDefault(t *testing.T) {
	t.Chdir(t.TempDir())
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if warnings, files := c.Warnings(), c.Files(); len(warnings)+len(files) > 0 {
		t.Errorf("warnings %q, files %q", warnings, files)
	}
	if got := c.Server.Address(); got != "127.0.0.1:8000" {
		t.Errorf("address %s", got)
	}
	if _, err := os.Stat(c.BlobStore.FS.RootDir); !os.IsNotExist(err) {
		t.Errorf("Validate made the storage directory: %v", err)
	}
}

func TestMerge(t *testing.T) {
	first := write(t, "first.toml", `
[server]
port = 1
[global]
tag_ttl = "1m"
serve_stale_on = ["denied", "not_found"]
[repository.a]
offline = true
[[repository.a.upstream]]
url = "https://one.io"
[[repository.a.upstream]]
url = "https://two.io"
[[repository.b.upstream]]
url = "https://b.io"
`)
	second := write(t, "second.toml", `
[server]
port = 2
[global]
serve_stale_on = ["denied"]
[repository.a]
tag_ttl = "2m"
[[repository.a.upstream]]
url = "https://three.io"
`)
	c, err := Load(first, second)
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Namespaces[0], c.Namespaces[1]
	if c.Server.Port != 2 || !cmp.Equal(c.Global.ServeStaleOn, []Class{"denied"}) || c.Global.TagTTL.Std() != time.Minute {
		t.Errorf("got %+v %+v", c.Server, c.Global)
	}
	if !a.Offline || a.TagTTL.Std() != 2*time.Minute || len(a.Upstreams) != 1 || a.Upstreams[0].URL.String() != "https://three.io" {
		t.Errorf("a = %+v", a)
	}
	if b.Key != "b" || b.TagTTL.Std() != time.Minute || b.Upstreams[0].URL.String() != "https://b.io" {
		t.Errorf("b = %+v", b)
	}
	if got := c.Files(); !cmp.Equal(got, []string{first, second}) {
		t.Errorf("files %q", got)
	}
}

func TestInheritance(t *testing.T) {
	c := mustLoad(t, `
[global]
immutable_tags = true
immutable_tags_exclusions = ["^latest$"]
tag_ttl = "1d"
tag_swr = "1m"
negative_ttl = "1s"
serve_stale_on = ["denied"]
max_stale = "7d"
[repository."Ghcr.io"]
immutable_tags = false
immutable_tags_exclusions = []
[repository."localhost:5000"]
immutable_tags_exclusions = ["^edge$"]
tag_ttl = "0s"
tag_swr = "0s"
negative_ttl = "0s"
serve_stale_on = []
max_stale = "0s"
[repository."ghcr.io/acme"]
namespace = "ACME.example"
[repository.localhost]
[repository.library]
`)
	want := []Namespace{
		{Key: "Ghcr.io", Host: "ghcr.io"},
		{Key: "ghcr.io/acme", Host: "acme.example"},
		{Key: "library"},
		{Key: "localhost", Host: "localhost"},
		{Key: "localhost:5000", Host: "localhost:5000", ImmutableTags: true, ImmutableTagsExclusions: []string{"^edge$"}},
	}
	for i := range want {
		want[i].FallbackOn = []Class{"unavailable", "rate_limited", "denied", "not_found"}
		want[i].Shared, want[i].Prefetch = true, true
		want[i].Authorize, want[i].AuthCheckTTL = "mirror", Duration(time.Minute)
	}
	want[4].ServeStaleOn = []Class{}
	for i := range want[:4] {
		want[i].ImmutableTags = true
		want[i].ImmutableTagsExclusions = []string{"^latest$"}
		want[i].TagTTL = Duration(day)
		want[i].TagSWR = Duration(time.Minute)
		want[i].NegativeTTL = Duration(time.Second)
		want[i].ServeStaleOn = []Class{"denied"}
		want[i].MaxStale = Duration(7 * day)
	}
	if d := cmp.Diff(want, c.Namespaces); d != "" {
		t.Error(d)
	}
	warnings := strings.Join(c.Warnings(), "\n")
	if !strings.Contains(warnings, `repository."Ghcr.io".immutable_tags (`) || strings.Contains(warnings, "acme") {
		t.Errorf("warnings: %s", warnings)
	}
}

func TestExpand(t *testing.T) {
	t.Setenv("WEIR_TEST", "value $$ ${x}")
	t.Setenv("WEIR_TEST_EMPTY", "")
	for text, want := range map[string]string{
		"": "", "plain": "plain", "^latest$": "^latest$", "a$b": "a$b", "$$": "$", "$$$": "$$", "$${HOME}": "${HOME}",
		"${WEIR_TEST}": "value $$ ${x}", "<${WEIR_TEST_EMPTY}${WEIR_TEST_EMPTY}>": "<>", "$${${WEIR_TEST_EMPTY}}": "${}",
	} {
		got, err := expand(text)
		if err != nil || got != want {
			t.Errorf("expand(%q) = %q, %v; want %q", text, got, err, want)
		}
		if again, err := expand(escape(got)); err != nil || again != got {
			t.Errorf("expand(escape(%q)) = %q, %v", got, again, err)
		}
	}
	for _, text := range []string{"${", "${A", "${1}", "${A-B}", "${WEIR_TEST_UNSET}", "${}"} {
		if got, err := expand(text); err == nil {
			t.Errorf("expand(%q) = %q", text, got)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	password := write(t, "password", "s3cret ${HOME}\r\n")
	url := write(t, "url", "redis://:tiger@cache?master_name=m\n")
	sentinels := write(t, "sentinels", "tiger of the Sentinels\n")
	proxy := write(t, "proxy", "http://u:tiger@proxy:3128")
	text := docker + `username = "u"
password = ""
password_file = "` + password + `"
proxy_file = "` + proxy + `"
[cache.redis]
url_file = "` + url + `"
sentinel_password_file = "` + sentinels + `"
`
	c := mustLoad(t, text)
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	u := c.Namespaces[0].Upstreams[0]
	if got := u.Password.Reveal(); got != "s3cret ${HOME}" {
		t.Errorf("password %q", got)
	}
	if got, err := u.ProxyURL(); err != nil || got.Host != "proxy:3128" {
		t.Errorf("proxy %v, %v", got, err)
	}
	if got := c.Cache.Redis; !cmp.Equal(got.Addrs, []string{"cache:26379"}) || got.Password != "tiger" || got.SentinelPassword != "tiger of the Sentinels" {
		t.Errorf("redis %+v", got)
	}
	for _, file := range []string{password, url, sentinels, proxy} {
		if !strings.Contains(strings.Join(c.Files(), "\n"), file) {
			t.Errorf("%s is not among %q", file, c.Files())
		}
	}
	printed := effective(t, c)
	if !strings.Contains(printed, "password_file = "+quote(password)) || strings.Contains(printed, "tiger") || strings.Contains(printed, "s3cret") {
		t.Errorf("printed:\n%s", printed)
	}
	if d := diff(c, mustLoad(t, printed)); d != "" {
		t.Errorf("comes back different: %s", d)
	}
}

func TestSecretFileProblems(t *testing.T) {
	dir := t.TempDir()
	file := write(t, "p", "tiger")
	large := write(t, "large", strings.Repeat("x", maxSideFile+1))
	for _, tt := range []struct{ lines, want string }{
		{"password = \"p\"\npassword_file = \"" + file + "\"\n",
			`config.toml:6: repository."docker.io".upstream[0].password_file: repository."docker.io".upstream[0].password is also set (config.toml:5); set only one of the two`},
		{"password_file = \"" + dir + "/none\"\n",
			`config.toml:5: repository."docker.io".upstream[0].password_file: cannot read the file: stat ` + dir + `/none: no such file or directory`},
		{"password_file = \"" + dir + "\"\n",
			`config.toml:5: repository."docker.io".upstream[0].password_file: ` + dir + ` is not a regular file`},
		{"password_file = \"" + large + "\"\n",
			`config.toml:5: repository."docker.io".upstream[0].password_file: ` + large + ` is larger than 8MiB`},
	} {
		if got := problemsOf(t, docker+"username = \"u\"\n"+tt.lines); got != tt.want {
			t.Errorf("got\n%s\nwant\n%s", got, tt.want)
		}
	}
}

func TestRootDir(t *testing.T) {
	dir := t.TempDir()
	file := write(t, "file", "")
	for root, want := range map[string]string{
		dir: "", dir + "/a/b": "",
		file:        "cannot be used: " + file + " is not a directory",
		file + "/a": "not a directory",
	} {
		err := writable(root)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", root, err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
