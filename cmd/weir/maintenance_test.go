package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/maintain"
)

// store puts blobs where a configuration keeps them, used an hour ago the
// last one, two hours ago the one before, and so on.
func store(t *testing.T, cfg *config.Config, contents ...string) []string {
	t.Helper()
	var paths []string
	for i, content := range contents {
		hex := digest.FromString(content).Encoded()
		path := filepath.Join(cfg.BlobStore.FS.RootDir, "blobs", "sha256", hex[:2], hex)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, content)
		used := time.Now().Add(-time.Duration(len(contents)-i) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// invoke runs a command line and returns its exit code and outputs.
func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestVerify(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	files := store(t, cfg, "one", "two", "three")
	if code, stdout, stderr := invoke(t, "verify", "--config", path); code != exitFine ||
		stdout != "verified 3 objects, 11 B\n" || stderr != "verifying 3 objects, 11 B\n" {
		t.Errorf("%d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if code, stdout, stderr := invoke(t, "verify", "--quiet", "--config", path); code != exitFine || stdout+stderr != "" {
		t.Errorf("quiet: %d, stdout %q, stderr %q", code, stdout, stderr)
	}

	write(t, files[1], "tvo")
	code, stdout, stderr := invoke(t, "verify", "--quiet", "--jobs", "1", "--config", path)
	line := "quarantined " + digest.FromString("two").String() + " (3 B): " + filepath.Join(cfg.BlobStore.FS.RootDir, "quarantine") + "/"
	if code != exitFailed || !strings.HasPrefix(stdout, line) || strings.Count(stdout, "\n") != 1 || !strings.HasSuffix(stderr, ": 1\n") {
		t.Errorf("%d, stdout %q, stderr %q; want %q", code, stdout, stderr, line)
	}
	if code, stdout, _ := invoke(t, "verify", "--config", path); code != exitFine || stdout != "verified 2 objects, 8 B\n" {
		t.Errorf("after: %d, stdout %q", code, stdout)
	}
}

func TestFinding(t *testing.T) {
	info := storage.Info{Digest: "sha256:ab", Size: 3 << 20}
	for want, f := range map[string]maintain.Finding{
		"quarantined sha256:ab (3.0 MiB): /q/ab":                                               {Info: info, Err: storage.ErrCorrupt, Path: "/q/ab"},
		"unreadable sha256:ab (3.0 MiB): read /b/ab: input/output error":                       {Info: info, Err: &os.PathError{Op: "read", Path: "/b/ab", Err: syscall.EIO}},
		"corrupt but not quarantined sha256:ab (3.0 MiB): the bytes do not match their digest": {Info: info, Err: storage.ErrCorrupt},
	} {
		if got := finding(f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestGC(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	files := store(t, cfg, "oldest", "older", "newest")
	for _, step := range []struct{ args, stdout string }{
		{"--max-size 1KiB", "removed 0 objects, 0 B; kept 3 objects, 17 B\n"},
		{"--max-size 11 --dry-run", "would remove 1 object, 6 B; kept 2 objects, 11 B\n"},
		{"--max-unused 90m --dry-run", "would remove 2 objects, 11 B; kept 1 object, 6 B\n"},
		{"--max-size 11", "removed 1 object, 6 B; kept 2 objects, 11 B\n"},
		{"--max-size 11 --max-unused 30d", "removed 0 objects, 0 B; kept 2 objects, 11 B\n"},
		{"--max-unused 90m", "removed 1 object, 5 B; kept 1 object, 6 B\n"},
		{"--max-size 0", "removed 1 object, 6 B; kept 0 objects, 0 B\n"},
	} {
		code, stdout, stderr := invoke(t, append([]string{"gc", "--config", path}, strings.Fields(step.args)...)...)
		if code != exitFine || stdout != step.stdout || stderr != "" {
			t.Errorf("gc %s: %d, stdout %q, stderr %q; want %q", step.args, code, stdout, stderr, step.stdout)
		}
	}
	for _, file := range files {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestGCPrunesRecords(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	store(t, cfg, "older", "newer")
	records := filepath.Join(cfg.BlobStore.FS.RootDir, "records", "ghcr.io")
	for name, content := range map[string]string{"gone": "gone", "older": "older", "newer": "newer"} {
		link := filepath.Join(records, name, "_links", "sha256", digest.FromString(content).Encoded())
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, link, "{}")
	}
	const evicted = " 1 object, 5 B; kept 1 object, 5 B\n" // its link is damaged, so it has no name
	for _, step := range []struct{ args, stdout string }{
		{"--prune-records --dry-run", "would remove 0 objects, 0 B; kept 2 objects, 10 B\nwould remove tags: 0, links: 1, repositories: 1\n"},
		{"--prune-records --max-size 5 --dry-run", "would remove" + evicted + "would remove tags: 0, links: 2, repositories: 2\n"},
		{"--max-size 5", "removed" + evicted},
		{"--prune-records", "removed 0 objects, 0 B; kept 1 object, 5 B\nremoved tags: 0, links: 2, repositories: 2\n"},
		{"--prune-records", "removed 0 objects, 0 B; kept 1 object, 5 B\nremoved tags: 0, links: 0, repositories: 0\n"},
	} {
		code, stdout, stderr := invoke(t, append([]string{"gc", "--config", path}, strings.Fields(step.args)...)...)
		if code != exitFine || stdout != step.stdout || stderr != "" {
			t.Errorf("gc %s: %d, stdout %q, stderr %q; want %q", step.args, code, stdout, stderr, step.stdout)
		}
	}
}

func TestMaintenanceUsage(t *testing.T) {
	_, path := loadText(t, twoRepositories)
	for args, want := range map[string]string{
		"verify":                   "there is no store in ",
		"gc --max-size 1":          "there is no store in ",
		"verify --jobs 0":          "--jobs",
		"verify --jobs many":       "--jobs",
		"verify now":               "now",
		"gc":                       "--max-size",
		"gc --dry-run":             "--max-size",
		"gc --max-size much":       "is not a size",
		"gc --max-size -1":         "--max-size",
		"gc --max-unused sometime": "is not a duration",
	} {
		code, stdout, stderr := invoke(t, append(strings.Fields(args), "--config", path)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: %d, stdout %q, stderr %q; want %q", args, code, stdout, stderr, want)
		}
	}
}

// What was done before a signal is told.
func TestMaintenanceInterrupted(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	store(t, cfg, "one")
	for _, args := range [][]string{{"verify"}, {"gc", "--max-size", "0"}} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var stdout, stderr strings.Builder
		code := run(ctx, append(args, "--config", path), &stdout, &stderr)
		if code != exitFailed || !strings.HasSuffix(stderr.String(), "weir: interrupted\n") {
			t.Errorf("%s: %d, stdout %q, stderr %q", args, code, stdout.String(), stderr.String())
		}
	}
}

// Without a terminal a line now and then is enough.
func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out, "verifying", maintain.Amount{Objects: 4, Bytes: 4 << 10})
		for i := range int64(35) {
			time.Sleep(time.Second)
			p.advance(maintain.Amount{Objects: i / 10, Bytes: i * 128})
		}
		p.end(true)
		want := "verifying 4 objects, 4.0 KiB\n" +
			"verifying: 28% (0 objects, 1.1 KiB)\n" +
			"verifying: 59% (1 object, 2.4 KiB)\n" +
			"verifying: 91% (2 objects, 3.6 KiB)\n"
		if out.String() != want {
			t.Errorf("printed %q, want %q", out.String(), want)
		}
	})
}

// An attack on an earlier version has left lists of repositories that do not exist, and
// directories without number. A list that is fresh, or whose repository has content,
// stays.
func TestGCPrunesLeftovers(t *testing.T) {
	cfg, path := loadText(t, twoRepositories)
	store(t, cfg, "content")
	records := filepath.Join(cfg.BlobStore.FS.RootDir, "records", "ghcr.io")
	list := func(repo string, age time.Duration) string {
		file := filepath.Join(records, repo, "_documents", "tags", strings.Repeat("a", 64))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, file, "{}")
		used := time.Now().Add(-age)
		if err := os.Chtimes(file, used, used); err != nil {
			t.Fatal(err)
		}
		return file
	}
	dgst := digest.FromString("content")
	link := filepath.Join(records, "app", "_links", "sha256", dgst.Encoded())
	for i := range 20 {
		list(fmt.Sprint("none", i), 25*time.Hour)
		if err := os.MkdirAll(filepath.Join(records, fmt.Sprint("empty", i), "_tags"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, link, fmt.Sprintf(`{"mediaType":"","digest":%q,"size":7}`, dgst))
	stay := []string{link, list("app", 25*time.Hour), list("fresh", time.Hour)}
	for _, step := range []struct{ args, want string }{
		{"--dry-run", "would remove unused records: 20, empty directories: 40\n"},
		{"", "removed unused records: 20, empty directories: 40\n"},
		{"", "repositories: 0\n"},
		{"--max-unused 2h", "removed unused records: 1, empty directories: 0\n"},
	} {
		code, stdout, stderr := invoke(t, append([]string{"gc", "--prune-records", "--config", path}, strings.Fields(step.args)...)...)
		if code != exitFine || !strings.HasSuffix(stdout, step.want) || stderr != "" {
			t.Errorf("gc %s: %d, stdout %q, stderr %q; want %q", step.args, code, stdout, stderr, step.want)
		}
		if step.args == "--max-unused 2h" {
			stay = []string{link, stay[2]}
		}
		for _, file := range stay {
			if _, err := os.Stat(file); err != nil {
				t.Errorf("gc %s: %v", step.args, err)
			}
		}
	}
	left, err := os.ReadDir(records)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}
