package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/tests/harness"
)

// citation is one kind of thing that pages cite and that must exist.
type citation struct {
	pages []string
	// cited returns the things that a page cites.
	cited func(p *page) []string
	// least is how many of them there are in all pages at least: fewer mean that
	// a page has changed its form and that cited does not find them any more.
	least int
	// exists reports whether a thing that a page cites exists.
	exists func(p *page, thing string) bool
}

// The pages of the manual cite files, headings, messages, settings and tests.
// Each of them exists.
func TestDocsCiteWhatExists(t *testing.T) {
	t.Parallel()
	source := productSource(t)
	example, err := os.ReadFile("../config.example.toml")
	harness.Must(t, err)
	manual, err := filepath.Glob("../docs/*.md")
	harness.Must(t, err)
	troubleshooting := []string{"../docs/troubleshooting.md"}
	inSource := func(_ *page, name string) bool { return strings.Contains(source, `"`+name+`"`) }

	for name, c := range map[string]citation{
		"links": {pages(t), linksOf, 50, func(p *page, to string) bool { return leads(t, p, to) }},
		"manual": {
			[]string{"../README.md"},
			func(*page) []string { return append(manual, "../docs/clients/README.md") },
			10,
			func(readme *page, path string) bool {
				return strings.Contains(readme.text, "]("+strings.TrimPrefix(path, "../")+")")
			},
		},
		"index": {
			[]string{"../docs/README.md"},
			func(*page) []string { return append(manual, "../docs/clients/README.md") },
			10,
			func(index *page, path string) bool {
				return path == index.path || strings.Contains(index.text, "]("+strings.TrimPrefix(path, "../docs/")+")")
			},
		},
		// A test of package registry holds the page to its messages to clients.
		"lines of the log": {
			troubleshooting, matching(`[ (]"([a-z][^"]{15,})"`), 6,
			func(_ *page, text string) bool {
				return strings.Contains(source, strings.ReplaceAll(text, "\n", " "))
			},
		},
		"metrics": {troubleshooting, matching(`\b(weir_[a-z0-9_]+)`), 8, inSource},
		"settings": {
			troubleshooting, matching("`([a-z]+(?:_[a-z]+)+)(?: = [^`]*)?`"), 12,
			func(p *page, key string) bool { return isSetting(string(example), key) || inSource(p, key) },
		},
		"flags": {
			troubleshooting, matching("weir [a-z -]*(--[a-z-]+)"), 5,
			func(p *page, flag string) bool { return inSource(p, strings.TrimPrefix(flag, "--")) },
		},
		"links of troubleshooting": {troubleshooting, linksOf, 3, func(p *page, to string) bool { return leads(t, p, to) }},
		"tests of the README": {
			[]string{"../README.md"}, matching("\\[`(Test[A-Za-z0-9]+`\\]\\([a-z0-9_/]+\\.go)\\)"), 10,
			func(_ *page, test string) bool {
				name, file, _ := strings.Cut(test, "`](")
				source, err := os.ReadFile(filepath.Join("..", file))
				return err == nil && strings.Contains(string(source), "\nfunc "+name+"(t *testing.T)")
			},
		},
		"tests": {
			[]string{"../docs/proofs.md"}, func(p *page) []string { return citedTests(t, p) }, 50,
			func(_ *page, test string) bool {
				dir, name, _ := strings.Cut(test, " ")
				return strings.Contains(testSource(t, filepath.Join("..", dir)), "\nfunc "+name+"(t *testing.T)")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			for _, path := range c.pages {
				p := readPage(t, path)
				for _, thing := range c.cited(p) {
					n++
					if !c.exists(p, thing) {
						t.Errorf("%s cites %q, which does not exist", path, thing)
					}
				}
			}
			if n < c.least {
				t.Errorf("found %d, want at least %d: has the form of the pages changed?", n, c.least)
			}
		})
	}
}

// The configurations of these pages are accepted as they stand, once their files exist.
func TestConfigurationsOfPages(t *testing.T) {
	t.Parallel()
	for page, least := range map[string]int{"recipes": 6, "migrating": 3, "container": 1} {
		examples := readPage(t, "../docs/"+page+".md").code("toml")
		if len(examples) < least {
			t.Errorf("%s.md has %d examples, want %d: has the form of the page changed?", page, len(examples), least)
		}
		for n, example := range examples {
			dir := t.TempDir()
			for name, content := range map[string]string{
				"hub": "password\n", "ghcr": "password\n", "registry": "password\n",
				"htpasswd": "alice:$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\n",
			} {
				harness.WriteFile(t, filepath.Join(dir, name), content)
			}
			example = strings.NewReplacer("/etc/weir/", dir+"/", "/var/lib/weir", dir+"/data").Replace(example)
			harness.WriteFile(t, filepath.Join(dir, "weir.toml"), example)
			if got := command(t, dir, "check", "--config", "weir.toml"); got.code != 0 || !strings.Contains(got.stdout, "# ok") {
				t.Errorf("%s.md, example %d: exit code %d\n%s\n%s", page, n, got.code, example, got.stderr)
			}
		}
	}
}

// matching returns a function that finds the first group of a pattern in the
// text of a page.
func matching(pattern string) func(p *page) []string {
	find := regexp.MustCompile(pattern)
	return func(p *page) []string {
		var all []string
		for _, found := range find.FindAllStringSubmatch(p.text, -1) {
			all = append(all, found[1])
		}
		return all
	}
}

// linksOf returns the links of a page, as file#anchor.
func linksOf(p *page) []string {
	var all []string
	for _, l := range p.links {
		all = append(all, l.file+"#"+l.anchor)
	}
	return all
}

// leads reports whether a link of a page leads to a file that exists, and to a
// heading of that.
func leads(t *testing.T, p *page, to string) bool {
	t.Helper()
	file, anchor, _ := strings.Cut(to, "#")
	target := p.path
	if file != "" {
		target = filepath.Join(filepath.Dir(p.path), file)
	}
	if _, err := os.Stat(target); err != nil {
		return false
	}
	return anchor == "" || readPage(t, target).has(anchor)
}

// isSetting reports whether a key is in an example, active or not.
func isSetting(example, key string) bool {
	return regexp.MustCompile(`(?m)^#?` + regexp.QuoteMeta(key) + ` = `).MatchString(example)
}

// testName is a test as docs/proofs.md cites it.
var testName = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")

// citedTests returns the tests that docs/proofs.md cites, as "directory name".
// A cell such as
//
//	`TestA`, `TestB`; storage: `TestC`
//
// cites two tests of the directory tests and one of storage. Each fault has a
// test, or is one of the soak's.
func citedTests(t *testing.T, p *page) []string {
	t.Helper()
	var all []string
	for _, row := range p.rows(t, "fault", 2) {
		if !testName.MatchString(row[1]) && !strings.Contains(row[1], "soak") {
			t.Errorf("%q has no test", row[0])
		}
		for proof := range strings.SplitSeq(row[1], ";") {
			dir := "tests"
			if named, _, ok := strings.Cut(proof, ":"); ok {
				dir = strings.TrimSpace(named)
			}
			for _, found := range testName.FindAllStringSubmatch(proof, -1) {
				all = append(all, dir+" "+found[1])
			}
		}
	}
	return all
}

// Each fault that docs/reliability.md describes to operators has its row in
// docs/proofs.md, in the same order, and the other way round.
func TestEveryFaultHasAProof(t *testing.T) {
	t.Parallel()
	faults := func(path string, cells int) (names []string) {
		for _, row := range readPage(t, path).rows(t, "fault", cells) {
			names = append(names, row[0])
		}
		return names
	}
	described, proved := faults("../docs/reliability.md", 4), faults("../docs/proofs.md", 2)
	if d := cmp.Diff(described, proved); d != "" || len(described) < 50 {
		t.Errorf("%d faults; reliability.md (-) and proofs.md (+) differ: %s", len(described), d)
	}
}

// The pages of docs/clients show the files that their command prints for the
// configuration in their README.
func TestClientPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), readPage(t, "../docs/clients/README.md").code("toml")[0])
	for _, client := range []string{"docker", "containerd", "podman", "buildkit", "k3s"} {
		p := readPage(t, "../docs/clients/"+client+".md")
		var shown string
		for _, text := range p.commands() {
			if shown == "" && strings.HasPrefix(text, "weir client-config ") {
				shown, _, _ = strings.Cut(text, "\n")
			}
		}
		if !strings.HasPrefix(shown, "weir client-config "+client+" --url http://mirror.internal:8000") {
			t.Errorf("%s.md does not begin with its command but with %q", client, shown)
			continue
		}
		var files []clientconfig.File
		for _, b := range p.blocks {
			if strings.HasPrefix(b.file, "/") {
				files = append(files, clientconfig.File{Path: b.file, Content: b.text})
			}
		}
		got := command(t, dir, strings.Fields(shown)[1:]...)
		if len(files) == 1 && !strings.Contains(got.stderr, "file: "+files[0].Path+"\n") {
			t.Errorf("%s.md shows %s, and the command says\n%s", client, files[0].Path, got.stderr)
		}
		if want := clientconfig.Print(files); got.code != 0 || got.stdout != want {
			t.Errorf("%s.md shows\n%s\nand the command prints\n%s\n%s", client, want, got.stdout, got.stderr)
		}
	}
}

// The README's second command, the last one, runs the tests. CI runs all of
// them.
func TestReadmeTests(t *testing.T) {
	t.Parallel()
	commands := readPage(t, "../README.md").commands()
	script, err := os.ReadFile("../.ci/run")
	harness.Must(t, err)
	if len(commands) != 2 || commands[1] != "make test" || !strings.Contains(string(script), "\nmake test-all\n") {
		t.Errorf("the README's commands are %q, and .ci/run is\n%s", commands, script)
	}
}

// productSource returns all code but that of tests.
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

// testSource returns the test code of a directory.
func testSource(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	harness.Must(t, err)
	var all strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		harness.Must(t, err)
		all.Write(source)
	}
	return all.String()
}
