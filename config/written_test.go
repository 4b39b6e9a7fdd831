package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writeIn writes a file of a directory and returns its path.
func writeIn(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const writtenPart = "[[repository.\"new.example\".upstream]]\nurl = \"https://new.example\"\n"

// Blocks of edit_dir add to those of files, or to the built-in ones. Their upstreams are confined.
func TestWrittenBlocks(t *testing.T) {
	dir := t.TempDir()
	part := writeIn(t, dir, "registry-new.example.toml", writtenPart)
	writeIn(t, dir, ".weir-1.toml", "broken")
	writeIn(t, dir, "notes.txt", "broken")
	for name, c := range map[string]struct {
		text, env string
		blocks    int
		reach     Reach
	}{
		"built-in":    {"[ui]\nedit_dir = '" + dir + "'\n", "", 9, ReachPublic},
		"files":       {"[ui]\nedit_dir = '" + dir + "'\nallow_private_registries = true\n[[repository.a.upstream]]\nurl = \"https://a.example\"\n", "", 2, ReachNear},
		"environment": {"", dir, 9, ReachPublic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("WEIR_UI_EDIT_DIR", c.env)
			file := write(t, "config.toml", c.text)
			cfg, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			reaches := map[string]Reach{}
			for _, n := range cfg.Namespaces {
				reaches[n.Key] = n.Upstreams[0].Reach
			}
			if len(reaches) != c.blocks || reaches["new.example"] != c.reach || reaches["a"] != ReachAny || reaches["quay.io"] != ReachAny {
				t.Errorf("%v", reaches)
			}
			for _, n := range cfg.Namespaces {
				if n.Added != (n.Key == "new.example") {
					t.Errorf("%s: added %t", n.Key, n.Added)
				}
			}
			if !slices.Equal(cfg.Documents(), []string{file, part}) || cfg.HasRepositories() != (name == "files") {
				t.Errorf("files %q, has repositories %v", cfg.Documents(), cfg.HasRepositories())
			}
			cfg, err = Source{Files: []string{file}}.LoadWith(Draft{Key: "more.example", URL: "https://more.example", Username: "u", Password: "${HOME}"})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(cfg.Namespaces, func(n Namespace) bool { return n.Key == "more.example" })
			if i < 0 || cfg.Namespaces[i].Upstreams[0].Reach != c.reach || cfg.Namespaces[i].Upstreams[0].Password != "${HOME}" {
				t.Errorf("%+v", cfg.Namespaces)
			}
		})
	}
}

// A file of edit_dir replaces no block of another file, and sets nothing but blocks.
func TestWrittenBlocksThatAreRefused(t *testing.T) {
	for says, c := range map[string]struct {
		part, more string
	}{
		"does not belong":     {writtenPart + "[server]\nport = 1\n", ""},
		"already; remove one": {writtenPart, writtenPart},
		"unknown key":         {writtenPart + "colour = 1\n", ""},
		"TOML":                {writtenPart + "username = x", ""},
	} {
		dir := t.TempDir()
		writeIn(t, dir, "registry-new.example.toml", c.part)
		file := write(t, "config.toml", "[ui]\nedit_dir = '"+dir+"'\n"+c.more)
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), says) && says != "TOML" {
			t.Errorf("%s: %v", says, err)
		}
	}
	file := write(t, "config.toml", "[[repository.\"new.example\".upstream]]\nurl = \"https://x.example\"\n")
	for _, dir := range []string{"", t.TempDir()} {
		source := Source{Files: []string{file}, Overrides: []Override{{Key: []string{"ui", "edit_dir"}, Value: dir, Origin: "--test"}}}
		if _, err := source.LoadWith(Draft{Key: "new.example", URL: "https://new.example"}); err == nil {
			t.Errorf("a draft of a block that exists is loaded, with edit_dir %q", dir)
		}
	}
}

// A block in place of a built-in one serves all names of that one. If a file has blocks, none is in force.
func TestWrittenBlockInPlaceOfABuiltInOne(t *testing.T) {
	dir := t.TempDir()
	writeIn(t, dir, "registry-quay.io.toml", strings.ReplaceAll(writtenPart, "new.example", "quay.io"))
	for text, added := range map[string]bool{"": false, "[[repository.a.upstream]]\nurl = \"https://a.example\"\n": true} {
		cfg, err := Load(write(t, "config.toml", "[ui]\nedit_dir = '"+dir+"'\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(cfg.Namespaces, func(n Namespace) bool { return n.Key == "quay.io" })
		if cfg.Namespaces[i].Added != added {
			t.Errorf("beside %q: added %t", text, !added)
		}
	}
}

// An edit_dir that cannot be used is an error at the start, and names the key.
func TestEditDirThatCannotBeUsed(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	file := writeIn(t, t.TempDir(), "file", "")
	for dir, says := range map[string]string{"/does/not/exist": "cannot be read", file: "cannot be read", open: "every user can write"} {
		cfg, err := Load(write(t, "config.toml", "[ui]\nedit_dir = '"+dir+"'\n"))
		if err == nil {
			err = cfg.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), "ui.edit_dir") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Different keys have files of different names, each in the directory itself.
func TestFileNamesOfDrafts(t *testing.T) {
	names := map[string]string{}
	for _, key := range []string{"a.b", "a.b/c", "a.b:5000", "a.b_c", "a.b-c", "a.b/c/d", "a.b%2Fc", "../x", "/", ""} {
		name := Draft{Key: key}.FileName()
		if other, taken := names[name]; taken || filepath.Base(name) != name || !filepath.IsLocal(name) {
			t.Errorf("%q has the name %q, as %q has", key, name, other)
		}
		names[name] = key
	}
}
