package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each command that is in a list has a manual page, with the date of the release.
func TestManualPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	dir := t.TempDir()
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"man", dir}, &stderr, &stderr); code != exitFine {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	page := func(name string) string {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(content)
	}
	if first := page("weir.1"); !strings.Contains(first, `"Jan 1970"`) || !strings.Contains(first, "weir-client-config(1)") {
		t.Errorf("%.400s", first)
	}
	for _, command := range rootCommand().Commands() {
		name := "weir-" + command.Name() + ".1"
		if !command.Hidden {
			page(name)
		} else if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("there is %s", name)
		}
	}
	if code := run(t.Context(), []string{"man", filepath.Join(dir, "missing")}, &stderr, &stderr); code != exitFailed {
		t.Errorf("exit code %d for a directory that does not exist", code)
	}
}
