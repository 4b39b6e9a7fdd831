package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// page is a page of Markdown: its text, and the parts that tests look at.
type page struct {
	path     string
	text     string
	headings []heading
	blocks   []codeBlock
	links    []link
	tables   [][][]string // rows of cells, the header first
}

type heading struct {
	level int // 1 is the page's title
	text  string
}

// codeBlock is a block of code. The first line of one such as
//
//	```toml weir.toml
//
// has its language and the file that it is.
type codeBlock struct{ language, file, text string }

// link leads to a file, whose name is relative to the page and empty if that is
// the page itself, and to a heading of it if the anchor is not empty.
type link struct{ file, anchor string }

var (
	headingLine = regexp.MustCompile(`^(#+) (.*)$`)
	linkTarget  = regexp.MustCompile(`\]\(([a-zA-Z0-9/._-]*)(?:#([a-z0-9-]+))?\)`)
	notInSlug   = regexp.MustCompile(`[^a-z0-9 -]`)
)

// readPage parses a page.
func readPage(t *testing.T, path string) *page {
	t.Helper()
	text, err := os.ReadFile(path)
	harness.Must(t, err)
	p := &page{path: path, text: string(text)}
	var code *codeBlock
	inTable := false
	for line := range strings.Lines(p.text) {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && code != nil:
			p.blocks = append(p.blocks, *code)
			code = nil
		case fence:
			code = new(codeBlock)
			code.language, code.file, _ = strings.Cut(strings.TrimSpace(info), " ")
		case code != nil:
			code.text += line
		default:
			inTable = p.parseLine(strings.TrimSpace(line), inTable)
		}
	}
	if code != nil {
		t.Errorf("%s: a block of code has no end", path)
	}
	return p
}

// parseLine parses a line that is not code. It reports whether the line belongs
// to a table, and is told whether the line before did.
func (p *page) parseLine(line string, inTable bool) bool {
	if found := headingLine.FindStringSubmatch(line); found != nil {
		p.headings = append(p.headings, heading{len(found[1]), found[2]})
	}
	for _, found := range linkTarget.FindAllStringSubmatch(line, -1) {
		p.links = append(p.links, link{found[1], found[2]})
	}
	if !strings.HasPrefix(line, "|") {
		return false
	}
	if !inTable {
		p.tables = append(p.tables, nil)
	}
	if !strings.HasPrefix(line, "|-") { // the line below the header
		row := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		p.tables[len(p.tables)-1] = append(p.tables[len(p.tables)-1], row)
	}
	return true
}

// has reports whether an anchor is one of the page's headings.
func (p *page) has(anchor string) bool {
	for _, h := range p.headings {
		slug := strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(h.text), ""), " ", "-")
		if slug == anchor {
			return true
		}
	}
	return false
}

// code returns the blocks of a language, in their order.
func (p *page) code(language string) []string {
	var texts []string
	for _, b := range p.blocks {
		if b.language == language {
			texts = append(texts, b.text)
		}
	}
	return texts
}

// commands returns the shell commands of the page, in their order.
func (p *page) commands() []string {
	var commands []string
	for _, text := range p.code("sh") {
		commands = append(commands, strings.TrimSpace(text))
	}
	return commands
}

// rows returns the rows of all tables whose first column has the given name.
// Each must have that many cells.
func (p *page) rows(t *testing.T, column string, cells int) [][]string {
	t.Helper()
	var rows [][]string
	for _, table := range p.tables {
		if len(table) == 0 || table[0][0] != column {
			continue
		}
		for _, row := range table[1:] {
			if len(row) != cells {
				t.Fatalf("%s: %d cells, want %d: %s", p.path, len(row), cells, row)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// pages returns the paths of all pages that are written for readers.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md", "../contrib/*/*.md"} {
		names, err := filepath.Glob(pattern)
		harness.Must(t, err)
		found = append(found, names...)
	}
	return found
}
