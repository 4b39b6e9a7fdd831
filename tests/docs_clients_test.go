package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// The pages of docs/clients show what their command prints for the
// configuration in their README.
func TestClientPages(t *testing.T) {
	t.Parallel()
	overview, err := os.ReadFile("../docs/clients/README.md")
	harness.Must(t, err)
	config := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(overview)
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), string(config[1]))
	pages := 0
	for _, client := range []string{"docker", "containerd", "podman", "buildkit", "k3s"} {
		page, err := os.ReadFile("../docs/clients/" + client + ".md")
		harness.Must(t, err)
		shown := regexp.MustCompile("(?s)```sh\n(weir client-config [^\n]*)\n").FindSubmatch(page)
		if shown == nil || !strings.HasPrefix(string(shown[1]), "weir client-config "+client+" --url http://mirror.internal:8000") {
			t.Errorf("%s.md does not begin with its command but with %s", client, shown)
			continue
		}
		got := command(t, dir, strings.Fields(string(shown[1]))[1:]...)
		var blocks []string
		for _, block := range regexp.MustCompile("(?s)```[a-z]+ (/[^\n]*\n.*?)```").FindAllSubmatch(page, -1) {
			blocks = append(blocks, "# "+string(block[1]))
		}
		if want := strings.Join(blocks, "\n"); got.code != 0 || got.stdout != want {
			t.Errorf("%s.md shows\n%s\nand the command prints\n%s\n%s", client, want, got.stdout, got.stderr)
		}
		pages++
	}
	if pages != 5 {
		t.Errorf("%d pages", pages)
	}
}

// The links among the pages lead somewhere.
func TestClientPagesLinks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/clients/*.md")
	harness.Must(t, err)
	if len(pages) != 7 {
		t.Errorf("pages: %v", pages)
	}
	for _, name := range pages {
		page, err := os.ReadFile(name)
		harness.Must(t, err)
		for _, link := range regexp.MustCompile(`\]\(([a-zA-Z0-9/.]*)(#[a-z0-9-]+)?\)`).FindAllSubmatch(page, -1) {
			target := name
			if len(link[1]) > 0 {
				target = filepath.Join(filepath.Dir(name), string(link[1]))
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if anchor := string(link[2]); anchor != "" && !anchors(string(text))[anchor] {
				t.Errorf("%s: %s has no heading for %s", name, target, anchor)
			}
		}
	}
}

// anchors returns what the headings of a page can be linked by.
func anchors(page string) map[string]bool {
	found := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		text := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found["#"+strings.ReplaceAll(text, " ", "-")] = true
	}
	return found
}
