package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// pages are all that is written for readers.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{"../README.md"}
	for _, pattern := range []string{"../docs/*.md", "../docs/*/*.md", "../contrib/*/*.md"} {
		names, err := filepath.Glob(pattern)
		harness.Must(t, err)
		found = append(found, names...)
	}
	return found
}

// The links among the pages lead somewhere, to headings as well.
func TestLinks(t *testing.T) {
	t.Parallel()
	links := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		harness.Must(t, err)
		for _, link := range regexp.MustCompile(`\]\(([a-zA-Z0-9/._-]*)(#[a-z0-9-]+)?\)`).FindAllSubmatch(text, -1) {
			links++
			target := page
			if len(link[1]) > 0 {
				target = filepath.Join(filepath.Dir(page), string(link[1]))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
			}
			if anchor := string(link[2]); anchor != "" && !anchors(t, target)[anchor] {
				t.Errorf("%s: %s has no heading for %s", page, target, anchor)
			}
		}
	}
	if links < 50 {
		t.Errorf("%d links", links)
	}
}

// Each page of the manual can be found from the README.
func TestManualIsLinked(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	harness.Must(t, err)
	manual, err := filepath.Glob("../docs/*.md")
	harness.Must(t, err)
	for _, page := range append(manual, "../docs/clients/README.md") {
		if !strings.Contains(string(readme), "]("+strings.TrimPrefix(page, "../")+")") {
			t.Errorf("the README does not link to %s", page)
		}
	}
}

// anchors returns what the headings of a page can be linked by.
func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(page)
	harness.Must(t, err)
	found := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		text := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found["#"+strings.ReplaceAll(text, " ", "-")] = true
	}
	return found
}
