package app

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// placeholder stands for a part of a message that differs each time.
var placeholder = regexp.MustCompile(`\b(HOST|NAME|STATUS|KEY|TIME|WAIT|CAUSE|LIST|TEXT)\b`)

// told are the messages of docs/troubleshooting.md: the first cells of the tables
// of what clients are told.
func told(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	inside := false
	for line := range strings.Lines(string(page)) {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			inside = false
		case first == "message to the client":
			inside = true
		case inside && strings.HasPrefix(first, "`"):
			all = append(all, strings.Trim(first, "`"))
		}
	}
	return all
}

// The page explains every message that clients are shown, as a whole, and no
// message that they are not. What is in no test of messages is in the code.
func TestTroubleshootingHasEveryMessage(t *testing.T) {
	templates := told(t)
	used := make([]bool, len(templates))
	for _, m := range messages {
		found := false
		for i, template := range templates {
			if matches(template, m.want) {
				found, used[i] = true, true
			}
		}
		if !found {
			t.Errorf("%s: docs/troubleshooting.md does not explain\n%s", m.name, m.want)
		}
	}
	code := source(t)
	for i, template := range templates {
		if !used[i] && (placeholder.MatchString(template) || !strings.Contains(code, template)) {
			t.Errorf("docs/troubleshooting.md explains what no client is told:\n%s", template)
		}
	}
	if len(templates) < len(messages)-10 {
		t.Errorf("the page has %d messages only: has the form of its tables changed?", len(templates))
	}
}

// matches reports whether a message is what a template says, with anything in
// place of its placeholders.
func matches(template, message string) bool {
	return regexp.MustCompile("^" + placeholder.ReplaceAllString(regexp.QuoteMeta(template), ".+") + "$").MatchString(message)
}

// source is the code of the packages that clients' messages come from, without
// tests.
func source(t *testing.T) string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.go", "../registry/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	var all strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}
