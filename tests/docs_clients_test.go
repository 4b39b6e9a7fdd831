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
