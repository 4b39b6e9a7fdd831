package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProblems compares the whole text of each message: file, line, key path, cause
// and remedy.
func TestProblems(t *testing.T) {
	t.Setenv("WEIR_TEST_LATIN1", "caf\xe9")
	tests := []struct{ name, text, want string }{
		{"misspelt key", "[server]\nbind_adress = \"::1\"\n" + docker,
			`config.toml:2: server.bind_adress: unknown key; did you mean "bind_address"?`},
		{"misspelt table", "\n[blob_stor.fs]\nroot_dir = \"x\"\n" + docker,
			`config.toml:2: blob_stor: unknown key; did you mean "blob_store"?`},
		{"misspelt twin", docker + "pasword_file = \"x\"\n",
			`config.toml:4: repository."docker.io".upstream[0].pasword_file: unknown key; did you mean "password_file"?`},
		{"key of another table", "bind_address = \"::1\"\n" + docker,
			`config.toml:1: bind_address: unknown key; did you mean server.bind_address?`},
		{"far from any key", "[log]\ncolourful = true\n" + docker,
			`config.toml:2: log.colourful: unknown key; known here are level, format`},
		{"a registry without quotation marks", "[repository.docker.io]\ndefault = true\n",
			`config.toml:1: repository.docker.io: unknown key; write the name of a registry in quotation marks: [repository."docker.io"]`},
		{"a longer one", "[[repository.registry.example.com.upstream]]\nurl = \"https://registry.example.com\"\n",
			`config.toml:1: repository.registry.example: unknown key; write the name of a registry in quotation marks: [repository."registry.example.com"]`},
		{"one as a dotted key", "[repository]\nquay.io.prefetch = true\n",
			`config.toml:2: repository.quay.io: unknown key; write the name of a registry in quotation marks: [repository."quay.io"]`},
		{"a misspelt table of a block", "[[repository.hub.upstream]]\nurl = \"https://hub.example\"\n[repository.hub.acess_policy]\n",
			`config.toml:3: repository.hub.acess_policy: unknown key; did you mean "access_policy"?`},
		{"string for a number", "[server]\nport = \"8000\"\n" + docker,
			`config.toml:2: server.port: must be a whole number, not a string`},
		{"number for a string", "[global]\nmax_manifest_size = 5\n" + docker,
			`config.toml:2: global.max_manifest_size: must be a string, not a whole number`},
		{"float for a number", "[server]\nport = 80.5\n" + docker,
			`config.toml:2: server.port: must be a whole number, not a number with a fraction`},
		{"string for a boolean", "[global]\nimmutable_tags = \"yes\"\n" + docker,
			`config.toml:2: global.immutable_tags: must be true or false, not a string`},
		{"string for an array", "[global]\nserve_stale_on = \"denied\"\n" + docker,
			`config.toml:2: global.serve_stale_on: must be an array of strings, not a string`},
		{"number in an array", "[global]\nserve_stale_on = [\n \"denied\",\n 4]\n" + docker,
			`config.toml:4: global.serve_stale_on[1]: must be a string, not a whole number`},
		{"number for a table", "log = 3\n" + docker,
			`config.toml:1: log: must be a table, not a whole number`},
		{"one bracket", "[repository.x.upstream]\nurl = \"https://x.io\"\n",
			`config.toml:1: repository.x.upstream: must be a list of tables: write [[repository.x.upstream]] with two brackets`},
		{"bad repository", "repository = 2026-01-01\n",
			`config.toml:1: repository: must be tables such as [repository."docker.io"], not a date or time`},
		{"bad duration", "[global]\ntag_ttl = \"soon\"\n" + docker,
			`config.toml:2: global.tag_ttl: "soon" is not a duration within range; write one like "30s", "5m", "12h", "7d" or "1d12h"`},
		{"negative seconds", "[global]\nshutdown_drain_secs = -1\n" + docker,
			`config.toml:2: global.shutdown_drain_secs: -1 seconds are negative`},
		{"too many seconds", "[global]\nshutdown_drain_secs = 9223372037\n" + docker,
			`config.toml:2: global.shutdown_drain_secs: 9223372037 seconds are too long`},
		{"variable is not set", "[log]\nlevel = \"${WEIR_TEST_UNSET}\"\n" + docker,
			`config.toml:2: log.level: the environment variable WEIR_TEST_UNSET is not set`},
		{"variable is not text", "[log]\nlevel = \"${WEIR_TEST_LATIN1}\"\n" + docker,
			`config.toml:2: log.level: the environment variable WEIR_TEST_LATIN1 is not UTF-8 text`},
		{"variable without a name", "[log]\nlevel = \"${}\"\n" + docker,
			`config.toml:2: log.level: ${ must be followed by the name of an environment variable and }; write $${ for a literal ${`},
		{"syntax", "[server]\nport = 80 00\n",
			`config.toml:2: server: expected a top-level item to end with a newline, comment, or EOF, but got '0' instead`},
		{"secret without quotes", docker + "password = tiger7\n",
			`config.toml:4: repository."docker.io".upstream.password: the value is not valid TOML; a string needs quotes around it`},

		{"bind address", "[server]\nbind_address = \"0.0.0.0:80\"\n" + docker,
			`config.toml:2: server.bind_address: must be an IP address or a host name, such as "0.0.0.0" or "::1"; the port goes into server.port`},
		{"port", "[server]\nport = 65536\n" + docker,
			`config.toml:2: server.port: must be between 0 and 65535, not 65536`},
		{"log level", "[log]\nlevel = \"verbose\"\n" + docker,
			`config.toml:2: log.level: must be one of debug, info, warn, error, not "verbose"`},
		{"log format", "[log]\nformat = \"xml\"\n" + docker,
			`config.toml:2: log.format: must be one of auto, text, json, not "xml"`},
		{"cache jobs", "[global]\nmax_concurrent_cache_jobs = 0\n" + docker,
			`config.toml:2: global.max_concurrent_cache_jobs: must be at least 1, not 0`},
		{"fetches", "[global]\nmax_concurrent_fetches = -4\n" + docker,
			`config.toml:2: global.max_concurrent_fetches: must be at least 1, not -4`},
		{"manifest size", "[global]\nmax_manifest_size = \"0\"\n" + docker,
			`config.toml:2: global.max_manifest_size: must be larger than 0`},
		{"pattern, reported once", "[global]\nimmutable_tags_exclusions = [\"^a$\",\n\"(\"]\n" + docker,
			"config.toml:3: global.immutable_tags_exclusions[1]: is not a regular expression: error parsing regexp: missing closing ) in `(`"},
		{"pattern of a repository", docker + "[repository.\"docker.io\"]\nimmutable_tags_exclusions = [\"[\"]\n",
			"config.toml:5: repository.\"docker.io\".immutable_tags_exclusions[0]: is not a regular expression: error parsing regexp: unterminated [] set in `[`"},
		{"stale class", "[global]\nserve_stale_on = [\"denied\", \"always\"]\n" + docker,
			`config.toml:2: global.serve_stale_on[1]: must be one of unavailable, rate_limited, denied, not_found, not "always"`},
		{"root_dir is missing", "[blob_store.fs]\nroot_dir = \"\"\n" + docker,
			`config.toml:2: blob_store.fs.root_dir: is missing; name a directory`},
		{"no upstream", "[repository.x]\n",
			`config.toml:1: repository.x.upstream: is missing; add [[repository.x.upstream]] with a url`},
		{"invalid key", "[[repository.\"Ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n",
			`config.toml:1: repository."Ghcr.io": the key must be the first segments of a repository name: lower-case letters, digits and . _ - between them, as in docker.io, ghcr.io/acme or localhost:5000`},
		{"two defaults", "[repository.a]\ndefault = true\nupstream = [{url = \"https://a.io\"}]\n[repository.b]\ndefault = true\nupstream = [{url = \"https://b.io\"}]\n",
			`config.toml:5: repository.b.default: repository.a is already the default (config.toml:1); only one block can be`},
		{"namespace twice", "[repository.b]\nnamespace = \"GHCR.io\"\nupstream = [{url = \"https://a.io\"}]\n[repository.\"ghcr.io\"]\nupstream = [{url = \"https://b.io\"}]\n",
			`config.toml:4: repository."ghcr.io".namespace: "ghcr.io" is already claimed by repository.b (config.toml:1)`},
		{"docker hub twice", docker + "[repository.hub]\nnamespace = \"index.docker.io\"\nupstream = [{url = \"https://a.io\"}]\n",
			`config.toml:5: repository.hub.namespace: "index.docker.io" is already claimed by repository."docker.io" (config.toml:2); docker.io, index.docker.io and registry-1.docker.io are one`},
		{"namespace is no host", "[repository.b]\nnamespace = \"a/b\"\nupstream = [{url = \"https://a.io\"}]\n",
			`config.toml:2: repository.b.namespace: must be a host name with an optional port, as clients send it in ?ns=`},
		{"no url", "[[repository.x.upstream]]\n[[repository.x.upstream]]\nurl = \"https://x.io\"\n",
			`config.toml:1: repository.x.upstream[0].url: is missing; write one like "https://registry.example.com"`},
		{"scheme", "[[repository.\"ghcr.io\".upstream]]\nurl = \"ghcr.io\"\n",
			`config.toml:2: repository."ghcr.io".upstream[0].url: must start with https:// or http://`},
		{"credentials in the url", "[[repository.x.upstream]]\nurl = \"https://u:tiger@x.io\"\n",
			`config.toml:2: repository.x.upstream[0].url: must not contain credentials; put them into username and password`},
		{"url is invalid", "[[repository.x.upstream]]\nurl = \"https://u:ti%ger@x.io\"\n",
			`config.toml:2: repository.x.upstream[0].url: is not a valid URL; write one like "https://registry.example.com"`},
		{"no host", "[[repository.x.upstream]]\nurl = \"https:///team\"\n",
			`config.toml:2: repository.x.upstream[0].url: names no host`},
		{"port of a url", "[[repository.x.upstream]]\nurl = \"https://x.io:70000\"\n",
			`config.toml:2: repository.x.upstream[0].url: names a port that is not between 1 and 65535`},
		{"query", "[[repository.x.upstream]]\nurl = \"https://x.io?\"\n",
			`config.toml:2: repository.x.upstream[0].url: must end with the host or a path, without ? or #`},
		{"username alone", docker + "username = \"u\"\n",
			`config.toml:2: repository."docker.io".upstream[0].password: is missing: username is set, and the two must be set together`},
		{"password alone", docker + "password = \"p\"\n",
			`config.toml:2: repository."docker.io".upstream[0].username: is missing: password is set, and the two must be set together`},
		{"certificate alone", docker + "client_certificate = \"c.pem\"\n",
			`config.toml:2: repository."docker.io".upstream[0].client_private_key: is missing: client_certificate is set, and the two must be set together`},
		{"segments", docker + "segments = 0\n",
			`config.toml:4: repository."docker.io".upstream[0].segments: must be between 1, which is one stream for each blob, and 16`},
		{"many segments", docker + "segments = 17\n",
			`config.toml:4: repository."docker.io".upstream[0].segments: must be between 1, which is one stream for each blob, and 16`},
		{"no bandwidth", docker + "max_bandwidth = \"0\"\n",
			`config.toml:4: repository."docker.io".upstream[0].max_bandwidth: must be larger than 0; write "" for no limit`},
		{"negative bandwidth", docker + "max_bandwidth = \"-1MiB\"\n",
			`config.toml:4: repository."docker.io".upstream[0].max_bandwidth: "-1MiB" is negative`},
		{"little bandwidth", docker + "max_bandwidth = \"50B\"\n",
			`config.toml:4: repository."docker.io".upstream[0].max_bandwidth: must be at least 64KiB, in bytes per second; write "" for no limit`},
		{"little bandwidth for all", "[global]\nmax_bandwidth = \"1KiB\"\n",
			`config.toml:2: global.max_bandwidth: must be at least 64KiB, in bytes per second; write "" for no limit`},
		{"connections", docker + "max_connections = -1\n",
			`config.toml:4: repository."docker.io".upstream[0].max_connections: must not be negative`},
		{"redirects", docker + "max_redirect = -1\n",
			`config.toml:4: repository."docker.io".upstream[0].max_redirect: must not be negative`},
		{"timeouts", docker + "connect_timeout_secs = 0\nread_timeout_secs = 0\n",
			"config.toml:4: repository.\"docker.io\".upstream[0].connect_timeout_secs: must be at least 1\n" +
				"config.toml:5: repository.\"docker.io\".upstream[0].read_timeout_secs: must be at least 1"},
		{"proxy", docker + "proxy = \"u:tiger@proxy\"\n",
			`config.toml:4: repository."docker.io".upstream[0].proxy: must be a URL such as "http://user:password@proxy.example.com:3128" (or https, socks5, socks5h), with every / ? # @ % in the password percent-encoded`},
		{"limits of the store", "[blob_store.fs]\nmax_size = \"0\"\nmax_unused = \"0s\"\n" + docker,
			`config.toml:2: blob_store.fs.max_size: must be larger than 0; write "" for no limit` + "\n" +
				`config.toml:3: blob_store.fs.max_unused: must be larger than 0; write "" for no limit`},
		{"not limits", "[blob_store.fs]\nmax_size = \"big\"\nmax_unused = \"1 month\"\n" + docker,
			`config.toml:2: blob_store.fs.max_size: "big" is not a size within range; write one like "512KiB", "5MiB" or "200GiB"` + "\n" +
				`config.toml:3: blob_store.fs.max_unused: "1 month" is not a duration within range; write one like "30s", "5m", "12h", "7d" or "1d12h"`},
		{"too small for a manifest", "[blob_store.fs]\nmax_size = \"4MiB\"\n" + docker,
			`config.toml:2: blob_store.fs.max_size: must be at least 5MiB: a manifest may be that large (global.max_manifest_size)`},
		{"a block too small for a manifest", capped("a", "4MiB"),
			`config.toml:2: repository.a.max_size: must be at least 5MiB: a manifest may be that large (global.max_manifest_size)`},
		{"a block without room", capped("a", "0"), `config.toml:2: repository.a.max_size: must be larger than 0; write "" for no limit`},
		{"too many blocks with a limit", func() (text string) {
			for i := range 202 {
				text += capped(fmt.Sprintf("b%03d", i), "1GiB")
			}
			return text
		}(), `config.toml:802: repository.b200.max_size: is set in too many blocks; at most 200 blocks can have a max_size`},
		{"no redis url", "[cache.redis]\nkey_prefix = \"x\"\n" + docker,
			`config.toml:1: cache.redis.url: is missing; write one like redis://127.0.0.1:6379/0`},
		{"sentinel user alone", "[cache.redis]\nurl = \"redis://h?master_name=m\"\nsentinel_username = \"u\"\n" + docker,
			`config.toml:1: cache.redis.sentinel_password: is missing: sentinel_username is set, and the two must be set together`},
		{"sentinel password without Sentinels", "[cache.redis]\nurl = \"redis://h\"\nsentinel_password = \"tiger\"\n" + docker,
			`config.toml:3: cache.redis.sentinel_password: is for Sentinels only; end cache.redis.url with ?master_name=NAME, or put the account of Redis itself into that URL`},
		{"sentinel password for a cluster", "[cache.redis]\nurl = \"redis://a,b\"\nsentinel_password = \"tiger\"\n" + docker,
			`config.toml:3: cache.redis.sentinel_password: is for Sentinels only; end cache.redis.url with ?master_name=NAME, or put the account of Redis itself into that URL`},
		{"redis certificate alone", "[cache.redis]\nurl = \"rediss://h\"\nclient_certificate = \"c.pem\"\n" + docker,
			`config.toml:1: cache.redis.client_private_key: is missing: client_certificate is set, and the two must be set together`},
		{"redis key alone", "[cache.redis]\nurl = \"rediss://h\"\nclient_private_key = \"k.pem\"\n" + docker,
			`config.toml:1: cache.redis.client_certificate: is missing: client_private_key is set, and the two must be set together`},
		{"redis authority without TLS", "[cache.redis]\nurl = \"redis://h\"\nserver_ca_bundle = \"/none/ca\"\n" + docker,
			"config.toml:3: cache.redis.server_ca_bundle: cannot read the file: stat /none/ca: no such file or directory\n" +
				`config.toml:3: cache.redis.server_ca_bundle: has no effect without TLS; start cache.redis.url with rediss://`},
		{"misspelt redis key", "[cache.redis]\nurl = \"redis://h?master_name=m\"\nsentinal_password_file = \"/none\"\n" + docker,
			`config.toml:3: cache.redis.sentinal_password_file: unknown key; did you mean "sentinel_password_file"?`},
		{"short redis key", "[cache.redis]\nurl = \"redis://h\"\nsecret_key = \"tiger\"\n" + docker,
			`config.toml:3: cache.redis.secret_key: must have at least 32 characters; make one with: openssl rand -hex 32`},
		{"redis db", "[cache.redis]\nurl = \"redis://u:tiger@h/x\"\n" + docker,
			`config.toml:2: cache.redis.url: the path must be the number of a database, as in redis://host:6379/0`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := problemsOf(t, tt.text); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestUnavailable(t *testing.T) {
	const protects = "not available in this version of Weir; remove it (it restricts access: ignoring it would grant that access to everyone)"
	tests := []struct{ text, want string }{
		{"[[downstream]]\n", "config.toml:1: downstream: " + protects},
		{docker + "[[repository.\"docker.io\".downstream]]\n", "config.toml:4: repository.\"docker.io\".downstream: " + protects},
		{docker + "[repository.\"docker.io\".auth]\n", "config.toml:4: repository.\"docker.io\".auth: " + protects},
	}
	for _, tt := range tests {
		if got := problemsOf(t, tt.text); got != tt.want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", tt.text, got, tt.want)
		}
	}
}

// TestOneReport shows that a key that cannot be decoded hides no problem of another
// key, and causes no second problem.
func TestOneReport(t *testing.T) {
	got := problemsOf(t, `[[repository.b.upstream]]
ulr = "https://x.io"
[[repository.a.upstream]]
url = "ftp://x.io"
client_certificate = "tls.crt"
[log]
level = 3
[server]
port = 70000
`)
	want := `config.toml:2: repository.b.upstream[0].ulr: unknown key; did you mean "url"?
config.toml:3: repository.a.upstream[0].client_private_key: is missing: client_certificate is set, and the two must be set together
config.toml:4: repository.a.upstream[0].url: must start with https:// or http://
config.toml:7: log.level: must be a string, not a whole number
config.toml:9: server.port: must be between 0 and 65535, not 70000`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestOneReportOfABlock shows that a wrong value in a block does not hide that the
// name of the block is wrong.
func TestOneReportOfABlock(t *testing.T) {
	const name = `config.toml:1: repository.X: the key must be the first segments of a repository name: ` +
		`lower-case letters, digits and . _ - between them, as in docker.io, ghcr.io/acme or localhost:5000`
	for text, want := range map[string]string{
		"[[repository.X.upstream]]\nurl = \"ftp://x.io\"\n": name + "\n" +
			`config.toml:2: repository.X.upstream[0].url: must start with https:// or http://`,
		"[repository.X]\nserve_stale_on = [\"never\"]\n[[repository.X.upstream]]\nurl = \"https://x.io\"\n": name + "\n" +
			`config.toml:2: repository.X.serve_stale_on[0]: must be one of unavailable, rate_limited, denied, not_found, not "never"`,
	} {
		if got := problemsOf(t, text); got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", text, got, want)
		}
	}
}

func TestSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "z.toml"), filepath.Join(dir, "a.toml")
	for file, text := range map[string]string{first: "\n\ncolour = 1\n", second: "colours = 1\n[server]\nprt = 1\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(dir, "missing.toml")
	_, err := Load(first, second, missing)
	problems, ok := errors.AsType[Problems](err)
	if !ok || len(problems) != 4 {
		t.Fatalf("err = %v", err)
	}
	for i, want := range []string{first + ":3: colour:", second + ":1: colours:", second + ":3: server.prt:", missing + ": cannot read the configuration: no such file"} {
		if !strings.HasPrefix(problems[i].Error(), want) {
			t.Errorf("problem %d = %s, want %s", i, problems[i], want)
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
}

func TestParentOf(t *testing.T) {
	for key, want := range map[string]string{
		`server.port`:                          `server`,
		`server`:                               ``,
		`repository."ghcr.io"`:                 `repository`,
		`repository."a\".b".upstream[10]`:      `repository."a\".b".upstream`,
		`repository."ghcr.io".upstream[0].url`: `repository."ghcr.io".upstream[0]`,
	} {
		if got := parentOf(key); got != want {
			t.Errorf("parentOf(%s) = %s, want %s", key, got, want)
		}
	}
}
