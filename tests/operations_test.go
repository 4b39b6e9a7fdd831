package tests

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const operations = "../docs/operations.md"

// The page's copy of a store, made beside the mirror that serves from it, serves
// by itself.
func TestCopiedStore(t *testing.T) {
	t.Parallel()
	testutil.Program(t, "rsync", "rsync")
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "1.2", []byte("a layer"))
	large := upstream.AddRandomBlob("org/app", 3*mib, 1)
	w := harness.StartWeir(t, blockOf("ghcr.io", nil, at(upstream)))
	for _, path := range []string{manifestPath("ghcr.io/org/app", "1.2"), blobPath("ghcr.io/org/app", large)} {
		expect(t, path, w.Get(t, path), http.StatusOK, "")
	}
	harness.Eventually(t, "all is stored", func() bool { return w.Metric(t, "weir_downloads") == 0 })

	commands := readPage(t, operations).commands()
	i := slices.IndexFunc(commands, func(block string) bool { return strings.HasPrefix(block, "rsync ") })
	dir := t.TempDir()
	command := strings.NewReplacer(" /var/lib/weir/", " "+w.Data+"/", "other:/var/lib/weir/", filepath.Join(dir, "data")+"/").
		Replace(commands[i])
	harness.Run(t, exec.CommandContext(t.Context(), "sh", "-c", command))
	w.Kill()

	before := len(upstream.Requests())
	other := harness.StartWeirIn(t, dir, blockOf("ghcr.io", []string{"offline = true"}, at(upstream)))
	expectContent(t, "the tag", other.Get(t, manifestPath("ghcr.io/org/app", "1.2")), image.Digest, statusHit)
	expectContent(t, "the blob", other.Get(t, blobPath("ghcr.io/org/app", large)), large, statusHit)
	if got := len(upstream.Requests()) - before; got != 0 {
		t.Errorf("the copy's mirror asked upstream %d times", got)
	}
}

// Every alert leads to a section of the page, and no section is about an alert
// that does not exist.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../contrib/prometheus/weir.rules.yml")
	harness.Must(t, err)
	var alerts, sections []string
	for _, match := range regexp.MustCompile(`(?s)- alert: (\w+)\n.*?runbook_url: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		alerts = append(alerts, match[1])
		if !strings.HasSuffix(match[2], "docs/operations.md#"+strings.ToLower(match[1])) {
			t.Errorf("the runbook of %s is %s", match[1], match[2])
		}
	}
	for _, h := range readPage(t, operations).headings {
		if h.level == 3 && !strings.Contains(h.text, " ") {
			sections = append(sections, h.text)
		}
	}
	if len(alerts) == 0 || !slices.Equal(alerts, sections) {
		t.Errorf("alerts and sections, in their order, differ:\n%q\n%q", alerts, sections)
	}
}
