package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// registryDir writes blobs as Distribution does, and returns the root of that
// registry.
func registryDir(t *testing.T, contents map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for of, content := range contents {
		hex := digest.FromString(of).Encoded()
		dir := filepath.Join(root, "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "data"), content)
	}
	return root
}

func TestImport(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	from := registryDir(t, map[string]string{"one": "one", "two": "two", "three": "three"})
	for _, step := range []struct{ args, stdout string }{
		{"--dry-run", "would import 3 objects, 11 B; already stored 0 objects, 0 B\n"},
		{"--jobs 1", "imported 3 objects, 11 B; already stored 0 objects, 0 B\n"},
		{"", "imported 0 objects, 0 B; already stored 3 objects, 11 B\n"},
		{"--quiet", ""},
	} {
		code, stdout, stderr := invoke(t, append([]string{"import", "--config", path, "--from-registry-dir", from}, strings.Fields(step.args)...)...)
		want := "importing 3 objects, 11 B\n"
		if step.args == "--quiet" {
			want = ""
		}
		if code != exitFine || stdout != step.stdout || stderr != want {
			t.Errorf("import %s: %d, stdout %q, stderr %q; want %q", step.args, code, stdout, stderr, step.stdout)
		}
	}
	if code, stdout, _ := invoke(t, "verify", "--config", path); code != exitFine || stdout != "verified 3 objects, 11 B\n" {
		t.Errorf("verify: %d, %q", code, stdout)
	}
	if left, err := os.ReadDir(filepath.Join(cfg.BlobStore.FS.RootDir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// Skipped and left out content is reported, and sets the exit code.
func TestImportOfSome(t *testing.T) {
	large := strings.Repeat("large ", 2<<20)
	_, path := loadText(t, "max_size = \"6MiB\"\n"+twoRepositories)
	from := registryDir(t, map[string]string{"one": "one", "two": "tvo"})
	code, stdout, stderr := invoke(t, "import", "--config", path, "--from-registry-dir", from)
	if code != exitFailed || !strings.HasPrefix(stdout, "imported 1 object, 3 B; ") || !strings.Contains(stdout, "\nskipped "+from) ||
		!strings.HasSuffix(stderr, "skipped files and directories: 1\n") {
		t.Errorf("%d, stdout %q, stderr %q", code, stdout, stderr)
	}
	from = registryDir(t, map[string]string{large: large, "one": "one"})
	code, stdout, stderr = invoke(t, "import", "--config", path, "--from-registry-dir", from, "--quiet")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "there is no room for 1 object, 12 MiB. Raise blob_store.fs.max_size") {
		t.Errorf("no room: %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestImportUsage(t *testing.T) {
	_, path := loadText(t, twoRepositories)
	empty := t.TempDir()
	for args, want := range map[string]string{
		"":                             "--from-registry-dir",
		"--from-registry-dir " + empty: "there is no content of a registry in " + empty,
		"--from-registry-dir " + registryDir(t, map[string]string{"a": "a"}) + " --bucket": "blob_store.s3",
		"--from-registry-dir " + empty + " --jobs 0":                                       "--jobs",
		empty: "weir import takes no arguments, but got",
	} {
		code, stdout, stderr := invoke(t, append(strings.Fields("import --config "+path), strings.Fields(args)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d, stdout %q, stderr %q, want %q", args, code, stdout, stderr, want)
		}
	}
}
