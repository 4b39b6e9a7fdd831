package clients

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// The OCI's own suite pushes to the registry behind the mirror, and then pulls,
// lists tags and lists referrers through the mirror.
func TestConformance(t *testing.T) {
	testutil.Long(t, "compiles the OCI's suite")
	suite := filepath.Join(t.TempDir(), "conformance")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-ldflags=-s", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	build.Dir, build.Env = "../tools/conformance", append(os.Environ(), "CGO_ENABLED=0") // as other tools
	harness.Run(t, build)
	addr, _ := startOlareg(t)
	w := harness.StartWeir(t, fmt.Sprintf("[repository.mirror]\ndefault = true\n[[repository.mirror.upstream]]\nurl = \"http://%s\"\n", addr))
	both := httptest.NewServer(readsAndWrites(w.Addr, addr))
	t.Cleanup(both.Close)

	run := exec.CommandContext(t.Context(), suite, "-test.v")
	run.Dir = t.TempDir()
	run.Env = append(os.Environ(), "OCI_ROOT_URL="+both.URL, "OCI_NAMESPACE=org/app", "OCI_TEST_PULL=1", "OCI_TEST_CONTENT_DISCOVERY=1",
		"OCI_HIDE_SKIPPED_WORKFLOWS=1", "OCI_REPORT_DIR="+run.Dir)
	out, failed := run.CombinedOutput()
	report, err := os.ReadFile(filepath.Join(run.Dir, "junit.xml"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if failed != nil {
		t.Errorf("the suite: %v\n%s", failed, out)
	}
	// Another version of the suite may have others.
	want := map[string]int{"Pull": 24, "Content Discovery": 14}
	if diff := cmp.Diff(want, passed(t, report)); diff != "" {
		t.Errorf("specs that passed (-want +got):\n%s", diff)
	}
	for _, kind := range []string{"manifest", "blob", "tags", "referrers"} {
		if w.Metric(t, "weir_requests_total", "operation", kind, "status", "200") == 0 {
			t.Errorf("no %s came through the mirror", kind)
		}
	}
}

// readsAndWrites sends reads to one registry and writes to another.
func readsAndWrites(reads, writes string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		host := writes
		if r.In.Method == http.MethodGet || r.In.Method == http.MethodHead {
			host = reads
		}
		r.SetURL(&url.URL{Scheme: "http", Host: host})
	}}
}

// passed reads a JUnit report and returns how many specs have passed, by
// workflow. A spec that did not pass fails the test, unless the suite runs it
// in place of pushing, or it belongs to a workflow that was not asked for.
func passed(t *testing.T, report []byte) map[string]int {
	t.Helper()
	var suites struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
		} `xml:"testsuite>testcase"`
	}
	harness.Must(t, xml.Unmarshal(report, &suites))
	count := make(map[string]int)
	for _, c := range suites.Cases {
		name := strings.TrimPrefix(c.Name, "[It] OCI Distribution Conformance Tests ")
		for _, workflow := range []string{"Pull", "Content Discovery"} {
			inPlace := strings.HasSuffix(name, " from environment") || strings.HasSuffix(name, " (no push)")
			switch {
			case !strings.HasPrefix(name, workflow+" ") || inPlace:
			case c.Status == "passed":
				count[workflow]++
			default:
				t.Errorf("%s: %s", c.Status, name)
			}
		}
	}
	return count
}
