package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlaces(t *testing.T) {
	const ours, other = "[server]\nport = 1\n", "[owner]\nname = \"another program\"\n"
	for name, test := range map[string]struct {
		files      map[string]string
		want       string
		passedOver string
	}{
		"none":                        {nil, "", ""},
		"weir.toml":                   {map[string]string{"weir.toml": ours, "config.toml": ours, "etc/weir.toml": ours}, "weir.toml", ""},
		"empty weir.toml":             {map[string]string{"weir.toml": "", "config.toml": ours}, "weir.toml", ""},
		"config.toml":                 {map[string]string{"config.toml": ours, "etc/weir.toml": ours}, "config.toml", ""},
		"weir.toml in etc":            {map[string]string{"etc/weir.toml": ours, "etc/config.toml": ours}, "etc/weir.toml", ""},
		"config.toml in etc":          {map[string]string{"etc/config.toml": ours}, "etc/config.toml", ""},
		"of another program":          {map[string]string{"config.toml": other, "etc/config.toml": ours}, "etc/config.toml", "config.toml"},
		"all of another program":      {map[string]string{"config.toml": other, "etc/config.toml": other}, "", "config.toml etc/config.toml"},
		"empty config.toml":           {map[string]string{"config.toml": ""}, "", "config.toml"},
		"block":                       {map[string]string{"config.toml": "[repository.\"ghcr.io\"]\n"}, "config.toml", ""},
		"upstream":                    {map[string]string{"config.toml": "[[repository.\"ghcr.io\".upstream]]\n"}, "config.toml", ""},
		"store":                       {map[string]string{"config.toml": "[blob_store.fs]\n"}, "config.toml", ""},
		"dotted key":                  {map[string]string{"config.toml": "server.port = 1\n"}, "config.toml", ""},
		"a key that is no table":      {map[string]string{"config.toml": "server = \"x\"\n"}, "", "config.toml"},
		"no TOML, but ours":           {map[string]string{"config.toml": "[log]\nlevel = warn\n  [server]\n"}, "config.toml", ""},
		"no TOML, array of tables":    {map[string]string{"config.toml": "x = y\n[[ \"repository\".\"ghcr.io\".upstream]]\n"}, "config.toml", ""},
		"no TOML, and not ours":       {map[string]string{"config.toml": "server: here\n[servers]\n"}, "", "config.toml"},
		"a directory, in first place": {map[string]string{"weir.toml/x": ""}, "weir.toml", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for file, text := range test.files {
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			files, passedOver := firstOf([]string{"weir.toml", "config.toml", "etc/weir.toml", "etc/config.toml"})
			if got := strings.Join(files, " "); got != test.want {
				t.Errorf("reads %q, want %q", got, test.want)
			}
			if got := strings.Join(passedOver, " "); got != test.passedOver {
				t.Errorf("passes over %q, want %q", got, test.passedOver)
			}
		})
	}
}

// A file without a repository block keeps the built-in ones, with its own policy.
func TestFileWithoutBlocks(t *testing.T) {
	for _, text := range []string{"[server]\nport = 9000\n", "[global]\ntag_ttl = \"0s\"\n", "[repository]\n", ""} {
		c := mustLoad(t, text)
		if len(c.Namespaces) != len(Default().Namespaces) || !c.Namespaces[0].Default || c.Namespaces[0].Key != "docker.io" {
			t.Errorf("%q: %+v", text, c.Namespaces)
		}
	}
	c := mustLoad(t, "[global]\ntag_ttl = \"7m\"\nimmutable_tags = true\n")
	for _, n := range c.Namespaces {
		if n.TagTTL.String() != "7m" || !n.ImmutableTags {
			t.Errorf("%s does not inherit: %+v", n.Key, n)
		}
	}
	if c := mustLoad(t, docker); len(c.Namespaces) != 1 {
		t.Errorf("a block does not replace the built-in ones: %+v", c.Namespaces)
	}
}

func TestEnvironment(t *testing.T) {
	secret := write(t, "secret", "tiger\n")
	hub := func(c *Config) Upstream { return c.Namespaces[0].Upstreams[0] }
	for name, test := range map[string]struct {
		variables map[string]string
		text      string
		got       func(*Config) any
		want      any
	}{
		"number":                   {map[string]string{"WEIR_SERVER_PORT": "9000"}, "[server]\nport = 1\n", func(c *Config) any { return c.Server.Port }, 9000},
		"text":                     {map[string]string{"WEIR_SERVER_BIND_ADDRESS": "::"}, "", func(c *Config) any { return c.Server.BindAddress }, "::"},
		"size":                     {map[string]string{"WEIR_BLOB_STORE_FS_MAX_SIZE": "20GiB"}, "", func(c *Config) any { return c.BlobStore.FS.MaxSize }, SizeLimit(20 << 30)},
		"duration":                 {map[string]string{"WEIR_GLOBAL_TAG_TTL": "5m"}, "", func(c *Config) any { return c.Namespaces[3].TagTTL.String() }, "5m"},
		"seconds":                  {map[string]string{"WEIR_GLOBAL_SHUTDOWN_DRAIN_SECS": "7"}, "", func(c *Config) any { return c.Global.ShutdownDrain.String() }, "7s"},
		"boolean":                  {map[string]string{"WEIR_GLOBAL_IMMUTABLE_TAGS": "true"}, "", func(c *Config) any { return c.Global.ImmutableTags }, true},
		"boolean or word":          {map[string]string{"WEIR_BLOB_STORE_FS_SYNC_TO_DISK": "false"}, "", func(c *Config) any { return c.BlobStore.FS.SyncToDisk }, SyncNever},
		"word":                     {map[string]string{"WEIR_BLOB_STORE_FS_SYNC_TO_DISK": "always"}, "", func(c *Config) any { return c.BlobStore.FS.SyncToDisk }, SyncAlways},
		"fraction":                 {map[string]string{"WEIR_OBSERVABILITY_TRACING_SAMPLING_RATE": "0.5"}, "", func(c *Config) any { return *c.Observability.Tracing.SamplingRate }, 0.5},
		"table that was not there": {map[string]string{"WEIR_CACHE_REDIS_URL": "redis://r:1"}, "", func(c *Config) any { return c.Cache.Redis.Addrs[0] }, "r:1"},
		"nothing is expanded":      {map[string]string{"WEIR_BLOB_STORE_FS_ROOT_DIR": "/a$${b}${c}"}, "", func(c *Config) any { return c.BlobStore.FS.RootDir }, "/a$${b}${c}"},
		"empty":                    {map[string]string{"WEIR_SERVER_PORT": ""}, "[server]\nport = 1\n", func(c *Config) any { return c.Server.Port }, 1},
		"service of Kubernetes": {map[string]string{"WEIR_SERVER_PORT": "tcp://10.0.0.7:8000", "WEIR_SERVER_SERVICE_HOST": "10.0.0.7", "WEIR_PORT": "tcp://10.0.0.7:1"}, "",
			func(c *Config) any { return c.Server.Port }, 8000},
		"built-in block": {map[string]string{"WEIR_REPOSITORY_DOCKER_IO_UPSTREAM_0_USERNAME": "u", "WEIR_REPOSITORY_DOCKER_IO_UPSTREAM_0_PASSWORD": "p"}, "",
			func(c *Config) any { return hub(c).URL.Host + hub(c).Username + hub(c).Password.Reveal() }, "registry-1.docker.iou" + "p"},
		"block of a file": {map[string]string{"WEIR_REPOSITORY_DOCKER_IO_TAG_TTL": "9m"}, docker, func(c *Config) any { return c.Namespaces[0].TagTTL.String() }, "9m"},
		"secret over its file": {map[string]string{"WEIR_REPOSITORY_DOCKER_IO_UPSTREAM_0_PASSWORD": "p"}, docker + "username = \"u\"\npassword_file = \"/missing\"\n",
			func(c *Config) any { return hub(c).Password.Reveal() }, "p"},
		"file over the secret": {map[string]string{"WEIR_REPOSITORY_DOCKER_IO_UPSTREAM_0_PASSWORD_FILE": secret}, docker + "username = \"u\"\npassword = \"x\"\n",
			func(c *Config) any { return hub(c).Password.Reveal() }, "tiger"},
		"block that is not there": {map[string]string{"WEIR_REPOSITORY_EXAMPLE_COM_TAG_TTL": "9m"}, docker, func(c *Config) any { return len(c.Namespaces) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range test.variables {
				t.Setenv(variable, value)
			}
			if got := test.got(mustLoad(t, test.text)); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestEnvironmentRefuses(t *testing.T) {
	for name, test := range map[string]struct{ variable, value, text, want string }{
		"no number":  {"WEIR_SERVER_PORT", "many", "", "WEIR_SERVER_PORT: server.port: must be a whole number, not a string"},
		"no boolean": {"WEIR_GLOBAL_IMMUTABLE_TAGS", "perhaps", "", "WEIR_GLOBAL_IMMUTABLE_TAGS: global.immutable_tags: must be true or false, not a string"},
		"no size":    {"WEIR_BLOB_STORE_FS_MAX_SIZE", "large", "", "WEIR_BLOB_STORE_FS_MAX_SIZE: blob_store.fs.max_size: "},
		"no port":    {"WEIR_SERVER_PORT", "70000", "", "WEIR_SERVER_PORT: server.port: must be between 0 and 65535, not 70000"},
		"two meanings": {"WEIR_REPOSITORY_A_B_TAG_TTL", "1m", strings.ReplaceAll(docker, "docker.io", "a.b") + strings.ReplaceAll(docker, "docker.io", "a-b"),
			`WEIR_REPOSITORY_A_B_TAG_TTL: repository."a.b".tag_ttl: is also the variable of repository.a-b.tag_ttl; set it in a file`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(test.variable, test.value)
			if got := problemsOf(t, test.text); !strings.Contains(got, test.want) {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestStrangeVariables(t *testing.T) {
	for variable, warned := range map[string]bool{
		"WEIR_SERVER_PROT": true, "WEIR_GLOBAL_SERVE_STALE_ON": true, "WEIR_REPOSITORY_EXAMPLE_COM_TAG_TTL": true,
		"WEIR_SERVER_PORT": false, "WEIR_HOME": false, "WEIR_VERSION": false, "OTHER_SERVER_PROT": false,
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "1")
			warnings := strings.Join(mustLoad(t, docker).Warnings(), "\n")
			if strings.Contains(warnings, variable) != warned {
				t.Errorf("the warnings are %q", warnings)
			}
		})
	}
}

// The command line wins over the environment, and that over files. check says where
// each value comes from.
func TestOrderOfStrength(t *testing.T) {
	file := write(t, "weir.toml", "[server]\nport = 1\nbind_address = \"::1\"\n[log]\nlevel = \"warn\"\nformat = \"text\"\n[global]\ntag_ttl = \"5m\"\n"+docker)
	t.Setenv("WEIR_SERVER_PORT", "2")
	t.Setenv("WEIR_LOG_LEVEL", "error")
	c, err := Source{Files: []string{file}, Overrides: []Override{{[]string{"server", "port"}, "3", "--listen"}}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Server.Port != 3 || c.Log.Level != "error" || c.Log.Format != "text" {
		t.Errorf("%+v %+v", c.Server, c.Log)
	}
	if got := c.Overrides(); !slices.Equal(got, []string{"--listen", "WEIR_LOG_LEVEL"}) {
		t.Errorf("the overrides are %q", got)
	}
	printed := effective(t, c)
	_, origins, _ := strings.Cut(printed, "# Where values come from")
	var got []string
	for line := range strings.Lines(origins) {
		got = append(got, strings.Join(strings.Fields(strings.ReplaceAll(line, filepath.Dir(file)+"/", "")), " "))
	}
	for _, want := range []string{
		"# server.port --listen", "# server.bind_address weir.toml:3", "# log.level WEIR_LOG_LEVEL", "# log.format weir.toml:6",
		"# global.tag_ttl weir.toml:8", `# repository."docker.io".tag_ttl global.tag_ttl`, `# repository."docker.io".upstream[0].url weir.toml:11`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in\n%s", want, origins)
		}
	}
	if strings.Contains(origins, "negative_ttl") {
		t.Errorf("a default has an origin:\n%s", origins)
	}
	if _, err := (Source{Overrides: []Override{{[]string{"log", "level"}, "loud", "--log-level"}}}).Load(); err != nil {
		t.Error(err) // Validate checks the value
	}
}

// Questions to a running mirror get as much of a broken configuration as there is.
func TestSalvage(t *testing.T) {
	const good = "[server]\nport = 9000\n[blob_store.fs]\nroot_dir = \"/data\"\n" + "[repository.\"ghcr.io\"]\n[[repository.\"ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n"
	for name, text := range map[string]string{
		"whole":               good,
		"no TOML at the end":  good + "oops\n",
		"no TOML before":      "= 1\n" + good,
		"unknown key":         strings.Replace(good, "port", "prot = 1\nport", 1),
		"open string":         good + "x = \"open\n",
		"duplicate key":       strings.Replace(good, "port", "port = 9000\nport", 1),
		"missing variable":    good + "password = \"${MISSING_FOR_SURE}\"\n",
		"missing secret":      good + "password_file = \"/missing\"\n",
		"several mistakes":    "a b\nc d\n" + good + "e f\n[x\n",
		"merge conflict":      "<<<<<<< HEAD\n" + good + "=======\n>>>>>>> other\n",
		"trailing characters": strings.Replace(good, "[server]", "[server] x\n[server]", 1),
	} {
		c := Source{Files: []string{write(t, "weir.toml", text)}}.Salvage()
		if c.Server.Port != 9000 || c.BlobStore.FS.RootDir != "/data" {
			t.Errorf("%s: port %d, data in %s", name, c.Server.Port, c.BlobStore.FS.RootDir)
		}
	}
	for _, file := range []string{"/missing/weir.toml", t.TempDir()} {
		if c := (Source{Files: []string{file}}).Salvage(); c.Server.Port != 8000 {
			t.Errorf("%s: port %d", file, c.Server.Port)
		}
	}
	if c := (Source{Files: []string{write(t, "weir.toml", "\x00\n")}}).Salvage(); c.Server.Port != 8000 {
		t.Errorf("port %d", c.Server.Port)
	}
}

// A command of another user needs no right to the store.
func TestValidateAway(t *testing.T) {
	c := mustLoad(t, "[blob_store.fs]\nroot_dir = \"/dev/null/store\"\n"+docker)
	if err := c.Validate(); err == nil {
		t.Error("the store is usable")
	}
	if err := c.ValidateAway(); err != nil {
		t.Error(err)
	}
	c.Server.Port = -1
	if err := c.ValidateAway(); err == nil {
		t.Error("the port is usable")
	}
}
