package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad loads any bytes. Load must not panic, and its error must be a list of
// problems. A configuration that loads must be the same after it was written and
// loaded again.
func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("../config.example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(mirror))
	f.Add([]byte(docker + "proxy = \"socks5://u:p@h:1\"\nusername = \"$${}$$\"\npassword = \"x\"\n"))
	f.Add([]byte("[cache.redis]\nurl = \"rediss://u:p@a,[::1]:3?master_name=x\"\n[global]\ntag_ttl = \"1d1ns\"\nmin_free = \"1\"\n"))
	f.Add([]byte("[repository.\"\\u0000\\\"\"]\nnamespace = \"\\u007f\"\nserve_stale_on = [\"\\n\"]\nimmutable_tags_exclusions = [\"(?<a\"]\n"))
	f.Add([]byte("[global]\nimmutable_tags = true\n[repository.x]\nimmutable_tags = false\nupstream = [{}, {password_file = \"\"}]\n"))
	f.Add([]byte("[[repository.x.warm]]\nimages = [\"a\", \"b:c@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"]\nplatforms = [\"linux/arm/v7\"]\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		first, second := filepath.Join(dir, "first.toml"), filepath.Join(dir, "second.toml")
		if err := os.WriteFile(first, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(first)
		if err != nil {
			if problems, ok := errors.AsType[Problems](err); !ok || len(problems) == 0 || c != nil {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		_ = c.Validate() // it may fail, and must not panic
		c.Warnings()
		c.Files()
		var printed bytes.Buffer
		if err := c.WriteTOML(&printed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(second, printed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(second)
		if err != nil {
			t.Fatalf("%v in\n%s", err, &printed)
		}
		if d := diff(withoutSecrets(c), withoutSecrets(again)); d != "" {
			t.Fatalf("%s in\n%s", d, &printed)
		}
	})
}
