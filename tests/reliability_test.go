package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests that docs/reliability.md cites as proofs exist where it says.
func TestReliabilityCitesTests(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	cited := 0
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 {
			continue
		}
		for proof := range strings.SplitSeq(cells[3], ";") {
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

// testSource is all test code of a directory.
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
