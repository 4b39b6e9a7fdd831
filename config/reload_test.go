package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRestartRequired(t *testing.T) {
	redis := "[cache.redis]\nurl = \"redis://a\"\n"
	tests := []struct {
		old, new string
		want     []string
	}{
		{"", "", nil},
		{"", docker, nil},
		{docker, docker + "max_redirect = 1\n", nil},
		{docker, docker + capped("a", "1GiB"), nil},
		{"", "[log]\nlevel = \"debug\"\n[global]\ntag_ttl = \"1s\"\ntag_swr = \"1s\"\nnegative_ttl = \"1s\"\nserve_stale_on = []\nmax_stale = \"1s\"\n" +
			"immutable_tags = true\nimmutable_tags_exclusions = [\"x\"]\nmax_manifest_size = \"1MiB\"\n", nil},
		{"", "[server]\nbind_address = \"::1\"\nport = 1\n[log]\nformat = \"json\"\n", []string{"server.bind_address", "server.port", "log.format"}},
		{"", "[global]\nmax_concurrent_cache_jobs = 1\nmax_concurrent_fetches = 1\nshutdown_drain_secs = 1\nenable_blob_redirect = false\n",
			[]string{"global.max_concurrent_cache_jobs", "global.max_concurrent_fetches", "global.shutdown_drain_secs", "global.enable_blob_redirect"}},
		{"", "[blob_store.fs]\nroot_dir = \"x\"\nsync_to_disk = false\nmax_size = \"1GiB\"\nmin_free = \"0\"\nmax_unused = \"30d\"\n",
			[]string{"blob_store.fs.root_dir", "blob_store.fs.sync_to_disk", "blob_store.fs.max_size", "blob_store.fs.min_free", "blob_store.fs.max_unused"}},
		{"", redis, nil},
		{redis, "", nil},
		{redis, "[cache.redis]\nurl = \"redis://b\"\nkey_prefix = \"x\"\n", nil},
	}
	for _, tt := range tests {
		if got := RestartRequired(mustLoad(t, tt.old), mustLoad(t, tt.new)); !slices.Equal(got, tt.want) {
			t.Errorf("from %q to %q: %q, want %q", tt.old, tt.new, got, tt.want)
		}
	}
}

// capped is a repository block with a max_size.
func capped(key, limit string) string {
	return fmt.Sprintf("[repository.%s]\nmax_size = %q\n[[repository.%s.upstream]]\nurl = \"https://%s.example\"\n", key, limit, key, key)
}

func TestWarnings(t *testing.T) {
	credentials := docker + "username = \"u\"\npassword = \"p\"\n"
	for _, tt := range []struct{ text, want string }{
		{docker, ""},
		{"[blob_store.fs]\nmax_size = \"\"\nmax_unused = \"\"\n" + docker, ""},
		{"", ""}, // the built-in blocks are in force
		{"[blob_store.fs]\nmin_free = \"4EiB\"\n" + docker, "nothing will be stored: blob_store.fs.min_free ("},
		{"[blob_store.fs]\nmax_size = \"4EiB\"\n" + docker, "is larger than the whole disk of ./weir-data"},
		{"[blob_store.fs]\nmax_size = \"4EiB\"\nroot_dir = \"/missing/for/now\"\n" + docker, "is larger than the whole disk of /missing/for/now"},
		{"[blob_store.fs]\nmax_size = \"1GiB\"\n" + docker + capped("a", "1GiB"), ""},
		{"[blob_store.fs]\nmax_size = \"1GiB\"\n" + docker + capped("a", "1025MiB"), "the blocks' max_size add up to 1025MiB, more than 1GiB (blob_store.fs.max_size)"},
		{"[blob_store.fs]\nmax_size = \"1GiB\"\n" + docker + capped("a", "600MiB") + capped("b", "600MiB"), "add up to 1200MiB, more than 1GiB (blob_store.fs.max_size), so blocks can fill the store"},
		{docker + capped("a", "4EiB") + capped("b", "4EiB"), ""},
		{bucketTable + "max_size = \"1GiB\"\n" + docker + capped("a", "2GiB"), "add up to 2GiB, more than 1GiB (blob_store.s3.max_size)"},
		{"[blob_store.fs]\nmin_free = \"4EiB\"\nroot_dir = \"\"\n" + docker, ""},
		{credentials, ""},
		{"[server]\nbind_address = \"localhost\"\n" + credentials, ""},
		{"[server]\nbind_address = \"127.0.0.9\"\n" + credentials, ""},
		{"[server]\nbind_address = \"::1\"\n" + credentials, ""},
		{"[server]\nbind_address = \"\"\n" + credentials, "listens beyond loopback"},
		{"[server]\nbind_address = \"::\"\n" + credentials, "listens beyond loopback"},
		{"[server]\nbind_address = \"mirror.example.com\"\n" + credentials, "listens beyond loopback"},
		{"[server]\nbind_address = \"0.0.0.0\"\n" + docker, "Set auth.htpasswd"},
	} {
		got := strings.Join(mustLoad(t, tt.text).Warnings(), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s\n%q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestWriteTOML(t *testing.T) {
	text := `
[global]
immutable_tags_exclusions = ["^a$$", '"\\', "$${x}"]
max_manifest_size = "6MiB"
tag_ttl = "36h"
[blob_store.fs]
max_size = "200GiB"
max_unused = "30d"
[cache.redis]
url = "rediss://u:tiger@a,b/?master_name=m"
sentinel_username = "watcher"
sentinel_password = "tiger"
` + docker + `username = "u"
password = "tiger"
proxy = "http://p:tiger@proxy:3128"
read_timeout_secs = 7
`
	c := mustLoad(t, text)
	printed := effective(t, c)
	if strings.Contains(printed, "tiger") {
		t.Errorf("leaks:\n%s", printed)
	}
	for _, want := range []string{
		"# Source: " + quote(c.Files()[0]) + "\n",
		"\n[global]\n", "\ntag_ttl = \"1d12h\"\n", "\nmax_manifest_size = \"6MiB\"\n", "\nmax_size = \"200GiB\"\n", "\nmax_unused = \"30d\"\n", "\nread_timeout_secs = 7\n",
		"\nurl = \"rediss://u:redacted@a:26379,b:26379/0?master_name=m\"\n",
		"\nsentinel_username = \"watcher\"\nsentinel_password = \"[redacted]\"\n",
		"\n[repository.\"docker.io\"]\nnamespace = \"docker.io\"\n", "\n[[repository.\"docker.io\".upstream]]\nurl = \"https://registry-1.docker.io\"\n",
		"\npassword = \"[redacted]\"\n", "\nproxy = \"http://p:redacted@proxy:3128\"\n", `immutable_tags_exclusions = ["^a$", "\"\\\\", "$${x}"]`,
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("%q is missing in\n%s", want, printed)
		}
	}
	again := mustLoad(t, printed)
	if d := diff(withoutSecrets(c), withoutSecrets(again)); d != "" {
		t.Errorf("comes back different: %s", d)
	}
	if err := again.Validate(); err != nil {
		t.Error(err)
	}
	if printed := effective(t, Default()); !strings.Contains(printed, "# Source: built-in default\n") {
		t.Errorf("printed:\n%s", printed)
	}
}

// TestExample compares config.example.toml with the code. Unchanged, it is the
// built-in default. With all settings uncommented, it has each known key once and no
// other.
func TestExample(t *testing.T) {
	const file = "../config.example.toml"
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if d := diff(Default(), c); d != "" {
		t.Errorf("differs from the default: %s", d)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	uncommented := regexp.MustCompile(`(?m)^#([a-z\[])`).ReplaceAllString(string(text), "$1")
	uncommented = strings.Replace(uncommented, "[cluster]\n# A secret of all replicas, such as the output of: openssl rand -hex 32.\nsecret = \"\"", "[cluster]\nsecret = \""+strings.Repeat("x", 32)+"\"", 1)
	// The file of users is the only one that must exist.
	all := mustLoad(t, strings.Replace(uncommented, "/etc/weir/htpasswd", write(t, "htpasswd", ""), 1))
	if err := all.Validate(); err != nil {
		t.Errorf("uncommented: %v", err)
	}
	if !slices.Contains(all.schemaKeys(), "repository.*.upstream.url") {
		t.Fatal("the test does not see the keys")
	}
	if d := cmp.Diff(knownSchema(), all.schemaKeys()); d != "" {
		t.Errorf("keys of the code (-) and of the example (+): %s", d)
	}
}

// schemaKeys returns the generic key paths of the settings that were read.
func (c *Config) schemaKeys() []string {
	var keys []string
	for key := range c.source.positions {
		if key = genericKey(key); slices.Contains(knownSchema(), key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// genericKey makes repository.*.upstream.url of
// repository."docker.io".upstream[0].url, and auth.identity.*.username of
// auth.identity.ci.username.
func genericKey(key string) string {
	key = regexp.MustCompile(`^(auth\.(?:identity|oidc|webhook))\.[a-z]+`).ReplaceAllString(key, "$1.*")
	return regexp.MustCompile(`"[^"]*"|\[\d+\]`).ReplaceAllStringFunc(key, func(s string) string {
		if s[0] == '"' {
			return "*"
		}
		return ""
	})
}

// knownSchema returns the generic key paths of all settings, sorted.
func knownSchema() []string {
	return slices.Sorted(slices.Values(allKeys(reflect.TypeFor[Config](), "")))
}
