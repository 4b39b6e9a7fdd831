package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// What docs/troubleshooting.md quotes of the log, of metrics, settings and
// commands exists. Its messages to clients are held to by a test of package
// registry.
func TestTroubleshootingQuotesWhatIsThere(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/troubleshooting.md")
	harness.Must(t, err)
	page, source := string(content), productSource(t)
	example, err := os.ReadFile("../config.example.toml")
	harness.Must(t, err)
	for what, quoted := range map[string]struct {
		pattern string
		least   int
		exists  func(text string) bool
	}{
		"lines of the log": {`[ (]"([a-z][^"]{15,})"`, 6, func(text string) bool { return strings.Contains(source, strings.ReplaceAll(text, "\n", " ")) }},
		"metrics":          {`\b(weir_[a-z_]+)`, 8, func(name string) bool { return strings.Contains(source, `"`+name+`"`) }},
		"settings":         {"`([a-z]+(?:_[a-z]+)+)(?: = [^`]*)?`", 12, func(key string) bool { return isSetting(string(example), key) || strings.Contains(source, `"`+key+`"`) }},
		"flags":            {"weir [a-z -]*(--[a-z-]+)", 5, func(flag string) bool { return strings.Contains(source, `"`+strings.TrimPrefix(flag, "--")+`"`) }},
		"links":            {`\]\(([a-zA-Z0-9/.#-]+)\)`, 3, func(link string) bool { return leads(t, link) }},
	} {
		found := regexp.MustCompile(quoted.pattern).FindAllStringSubmatch(page, -1)
		if len(found) < quoted.least {
			t.Errorf("the page has %d %s: has its form changed?", len(found), what)
		}
		for _, match := range found {
			if !quoted.exists(match[1]) {
				t.Errorf("the page quotes %q, of %s, which is not there", match[1], what)
			}
		}
	}
}

// isSetting reports whether a key is in an example, active or not.
func isSetting(example, key string) bool {
	return regexp.MustCompile(`(?m)^#?` + regexp.QuoteMeta(key) + ` = `).MatchString(example)
}

// leads reports whether a link of a page in docs leads somewhere.
func leads(t *testing.T, link string) bool {
	t.Helper()
	file, heading, hasHeading := strings.Cut(link, "#")
	if file == "" {
		file = "troubleshooting.md"
	}
	page, err := os.ReadFile(filepath.Join("../docs", file))
	if err != nil {
		return false
	}
	for _, title := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(page), -1) {
		slug := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(title[1]), "")
		if strings.ReplaceAll(slug, " ", "-") == heading {
			return true
		}
	}
	return !hasHeading
}

// productSource is all code but that of tests.
func productSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "../tests" || strings.HasSuffix(path, "test") || strings.HasPrefix(d.Name(), ".") && path != ".."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	harness.Must(t, err)
	return all.String()
}
