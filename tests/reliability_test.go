package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tests that docs/proofs.md cites exist in the packages that it names, and
// each fault has one.
func TestProofsCiteTests(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	cited := 0
	for _, row := range faultRows(t, "../docs/proofs.md", 2) {
		if len(name.FindAllString(row[1], -1)) == 0 && !strings.Contains(row[1], "soak") {
			t.Errorf("%q has no test", row[0])
		}
		for proof := range strings.SplitSeq(row[1], ";") {
			dir := "tests"
			if pkg, _, named := strings.Cut(proof, ":"); named {
				dir = strings.TrimSpace(pkg)
			}
			source := testSource(t, filepath.Join("..", dir))
			for _, match := range name.FindAllStringSubmatch(proof, -1) {
				cited++
				if !strings.Contains(source, "\nfunc "+match[1]+"(t *testing.T)") {
					t.Errorf("%s is not in %s", match[1], dir)
				}
			}
		}
	}
	if cited < 50 {
		t.Errorf("found %d citations: has the form of the tables changed?", cited)
	}
}

// Each fault that docs/reliability.md describes to operators has its row in
// docs/proofs.md, in the same order, and the other way round.
func TestEveryFaultHasAProof(t *testing.T) {
	t.Parallel()
	var described, proved []string
	for _, row := range faultRows(t, "../docs/reliability.md", 4) {
		described = append(described, row[0])
	}
	for _, row := range faultRows(t, "../docs/proofs.md", 2) {
		proved = append(proved, row[0])
	}
	if d := cmp.Diff(described, proved); d != "" || len(described) < 50 {
		t.Errorf("%d faults; reliability.md (-) and proofs.md (+) differ: %s", len(described), d)
	}
}

// faultRows returns the rows, each of so many cells, of the tables of a page
// whose first column is called fault.
func faultRows(t *testing.T, page string, cells int) [][]string {
	t.Helper()
	document, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	inside := false
	for line := range strings.Lines(string(document)) {
		row := strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "| "), " |"), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			inside = false
		case row[0] == "fault":
			inside = true
		case inside && !strings.HasPrefix(line, "|-"):
			if len(row) != cells {
				t.Fatalf("%s: %d cells, want %d: %s", page, len(row), cells, line)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// testSource returns the test code of a directory.
func testSource(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	var all strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(source)
	}
	return all.String()
}
