package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// Keys that Angos has renamed are understood, with a warning that has the new name.
func TestOlderKeys(t *testing.T) {
	for text, want := range map[string]struct {
		warned string
		holds  func(*Config) bool
	}{
		"[storage.fs]\nroot_dir = \"/tmp/old\"\n":                                           {"storage (config.toml:4) is an older spelling. Write blob_store", func(c *Config) bool { return c.BlobStore.FS.RootDir == "/tmp/old" }},
		"[storage.fs]\nroot_dir = \"/tmp/old\"\n[blob_store.fs]\nmax_size = \"5GiB\"\n":     {"Write blob_store", func(c *Config) bool { return c.BlobStore.FS.RootDir == "/tmp/old" && c.BlobStore.FS.MaxSize == 5<<30 }},
		"[storage.fs]\nroot_dir = \"/tmp/old\"\n[blob_store.fs]\nroot_dir = \"/tmp/new\"\n": {"Write blob_store", func(c *Config) bool { return c.BlobStore.FS.RootDir == "/tmp/new" }},
		"[cache_store.redis]\nurl = \"redis://127.0.0.1:6379\"\n":                           {"cache_store (config.toml:4) is an older spelling. Write cache", func(c *Config) bool { return c.Cache.Redis != nil && c.Cache.Redis.Addrs[0] == "127.0.0.1:6379" }},
		"[global]\nenable_redirect = false\n":                                               {"global.enable_redirect (config.toml:5) is an older spelling. Write enable_blob_redirect", func(c *Config) bool { return !c.Global.EnableBlobRedirect }},
		"[global]\nenable_redirect = false\nimmutable_tags = true\n[access_policy]\n": {"Write enable_blob_redirect", func(c *Config) bool {
			return !c.Global.EnableBlobRedirect && c.Global.ImmutableTags && c.Global.AccessPolicy != nil
		}},
		"[global]\nenable_blob_redirect = false\n": {"", func(c *Config) bool { return !c.Global.EnableBlobRedirect }},
	} {
		c := mustLoad(t, docker+text)
		warnings := strings.ReplaceAll(strings.Join(c.Warnings(), "\n"), filepath.Dir(c.source.files[0])+"/", "")
		if !want.holds(c) || !strings.Contains(warnings, want.warned) || (want.warned != "") != strings.Contains(warnings, "older spelling") {
			t.Errorf("%s: %+v\n%s", text, c, warnings)
		}
	}
	for text, want := range map[string]string{
		"[storage.fs]\nrot_dir = \"/tmp\"\n":                   `config.toml:5: blob_store.fs.rot_dir: unknown key; did you mean "root_dir"?`,
		"[global]\nenable_redirect = \"no\"\n":                 "config.toml:5: global.enable_blob_redirect: must be true or false",
		"[repository.\"docker.io\"]\nstorage = 1\n":            "unknown key",
		"[repository.\"docker.io\"]\nenable_redirect = true\n": "unknown key",
	} {
		if got := problemsOf(t, docker+text); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}
