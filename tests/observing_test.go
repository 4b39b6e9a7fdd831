package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// startObserved runs a mirror that has pulled of everything, from an upstream
// that tells its rate limit.
func startObserved(t *testing.T) *harness.Weir {
	t.Helper()
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	upstream.Fault(upstreamtest.Any, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "98;w=21600"))
	image := upstream.AddImage("org/app", "1.2", []byte("a layer"))
	blob := upstream.AddRandomBlob("org/app", 1000, 1)
	// A Redis that is away changes nothing.
	alone := fmt.Sprintf("[cache.redis]\nurl = \"redis://%s\"\n[cluster]\npeer_port = 0\nsecret = %q\n", testutil.FreeAddr(t), strings.Repeat("x", 32))
	w := harness.StartWeir(t, s3test.New(t).Config()+alone+block("ghcr.io", upstream)+"max_connections = 9\n[[repository.\"ghcr.io\".warm]]\nimages = [\"org/app:1.2\"]\n[server.tls]\nself_signed = true\n")
	w.Client = trusting(t, poolOf(leafOf(t, w.Addr)))
	for _, path := range []string{
		manifestPath("ghcr.io/org/app", "1.2"), blobPath("ghcr.io/org/app", blob),
		"/v2/ghcr.io/org/app/tags/list", "/v2/ghcr.io/org/app/referrers/" + image.Digest.String(),
	} {
		expect(t, path, w.Get(t, path), http.StatusOK, "")
	}
	return w
}

// exported are the metrics of a mirror, each as docs/metrics.md lists its own.
func exported(t *testing.T) map[string]string {
	t.Helper()
	rows := make(map[string]string)
	for name, family := range families(t, startObserved(t)) {
		labels := make(map[string]bool)
		for _, metric := range family.GetMetric() {
			for _, pair := range metric.GetLabel() {
				labels["`"+pair.GetName()+"`"] = true
			}
		}
		row := fmt.Sprintf("| `%s` | %s | ", name, strings.ToLower(family.GetType().String()))
		if len(labels) > 0 {
			row += strings.Join(slices.Sorted(maps.Keys(labels)), ", ") + " "
		}
		rows[name] = row + "|"
	}
	return rows
}

func TestMetricsFollowPractice(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), testutil.Program(t, "promtool", "prometheus"), "check", "metrics")
	cmd.Stdin = bytes.NewReader(startObserved(t).Get(t, "/metrics").Body)
	if out := harness.Run(t, cmd); out != "" {
		t.Errorf("promtool check metrics says\n%s", out)
	}
}

// The page lists each metric with its type and labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	page := readPage(t, "../docs/metrics.md").text
	rows := exported(t)
	for name, row := range rows {
		if strings.HasPrefix(name, "weir_") && !strings.Contains(page, "\n"+row) {
			t.Errorf("docs/metrics.md does not have %s: %s", name, row)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(weir_[a-z0-9_]+)` ").FindAllStringSubmatch(page, -1) {
		if rows[row[1]] == "" {
			t.Errorf("docs/metrics.md has %s, which is not exported", row[1])
		}
	}
}

func TestPrometheusRules(t *testing.T) {
	t.Parallel()
	promtool := testutil.Program(t, "promtool", "prometheus")
	for _, args := range [][]string{
		{"check", "rules", "weir.rules.yml"}, {"test", "rules", "weir.rules.test.yml"}, {"check", "config", "scrape.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../contrib/prometheus"
		harness.Run(t, cmd)
	}
	// Each alert fires in one of the tests.
	tests, err := os.ReadFile("../contrib/prometheus/weir.rules.test.yml")
	harness.Must(t, err)
	rules, err := os.ReadFile("../contrib/prometheus/weir.rules.yml")
	harness.Must(t, err)
	for _, alert := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		if !strings.Contains(string(tests), fmt.Sprintf("alertname=%q, alertstate=\"firing\"", alert[1])) {
			t.Errorf("no test of %s", alert[1])
		}
	}
}

// The metrics that dashboard, alerts and pages name are exported.
func TestQueriesNameMetrics(t *testing.T) {
	t.Parallel()
	rows := exported(t)
	present := slices.DeleteFunc(pages(t), func(path string) bool { return path == "../CHANGELOG.md" }) // which tells of older names
	for _, file := range append(present, "../contrib/grafana/weir.json", "../contrib/prometheus/weir.rules.yml") {
		text, err := os.ReadFile(file)
		harness.Must(t, err)
		for _, name := range regexp.MustCompile(`:?\b(weir|process|go)_[a-z0-9_]+:?`).FindAllString(string(text), -1) {
			if strings.Contains(name, ":") {
				continue // a series that a rule records
			}
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "") // of a histogram
			if rows[name] == "" && rows[base] == "" {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
		}
	}
}

// The tests name only metrics that docs/metrics.md lists. A wait until a metric
// is 0 would succeed at once if there were no such metric.
func TestTestsNameMetrics(t *testing.T) {
	t.Parallel()
	listed := make(map[string]bool)
	for _, found := range regexp.MustCompile("(?m)^\\| `(weir_[a-z0-9_]+)` ").FindAllStringSubmatch(readPage(t, "../docs/metrics.md").text, -1) {
		listed[found[1]] = true
	}
	for _, dir := range []string{".", "soak", "hostile", "clients", "fleet"} {
		for _, found := range regexp.MustCompile(`"(weir_[a-z0-9_]+)"`).FindAllStringSubmatch(testSource(t, dir), -1) {
			if !listed[found[1]] {
				t.Errorf("a test in tests/%s names %s, which docs/metrics.md does not list", dir, found[1])
			}
		}
	}
}

// panel has the fields that all panels of the dashboard have.
type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ Expr string }
}

// Grafana cannot be had here. Its file is JSON in which every panel has a place
// of its own, and whose queries Prometheus understands.
func TestDashboard(t *testing.T) {
	t.Parallel()
	promtool := testutil.Program(t, "promtool", "prometheus")
	text, err := os.ReadFile("../contrib/grafana/weir.json")
	harness.Must(t, err)
	var dashboard struct{ Panels []panel }
	harness.Must(t, json.Unmarshal(text, &dashboard))
	type place struct{ x, y int }
	taken := make(map[place]string)
	ids := make(map[int]bool)
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h", "$job", "weir", "$instance", ".*", "$namespace", ".*", "$upstream", ".*")
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d, %q, has no title, no query, or another one's number", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[place{x, y}]; ok || x >= 24 {
					t.Fatalf("panel %q lies on %q or beyond the edge", p.Title, other)
				}
				taken[place{x, y}] = p.Title
			}
		}
		for i, target := range p.Targets {
			query, err := json.Marshal(variables.Replace(target.Expr))
			harness.Must(t, err)
			fmt.Fprintf(&rules, "  - record: dashboard:panel_%d:query_%d\n    expr: %s\n", p.ID, i, query)
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	harness.WriteFile(t, file, rules.String())
	harness.Run(t, exec.CommandContext(t.Context(), promtool, "check", "rules", file))
	if strings.Contains(rules.String(), "$") {
		t.Errorf("a variable of the dashboard is unknown:\n%s", rules.String())
	}
}
