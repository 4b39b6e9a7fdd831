package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// sized is a file, a function or an interface and its size.
type sized struct {
	name string
	size int
}

// pkg holds the figures of a package.
type pkg struct {
	dir                   string
	lines, testLines      int
	exported              int // names at the top of the package, and methods
	words, whats, vague   int // of comments
	bodyLines             int // of functions, without the braces' lines
	bodyComments          int // of these, lines with a comment
	files                 []sized
	functions, interfaces []sized
}

func (p *pkg) ratio() float64     { return per(p.testLines, p.lines, 1) }
func (p *pkg) vagueRate() float64 { return per(p.vague, p.words, 1000) }
func (p *pkg) bodyRate() float64  { return per(p.bodyComments, p.bodyLines, 100) }

func per(n, of int, unit float64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of) * unit
}

// add adds the figures of another package to a total.
func (p *pkg) add(o *pkg) {
	p.lines += o.lines
	p.testLines += o.testLines
	p.exported += o.exported
	p.words += o.words
	p.whats += o.whats
	p.vague += o.vague
	p.bodyLines += o.bodyLines
	p.bodyComments += o.bodyComments
	p.files = append(p.files, o.files...)
}

// load measures the product packages below a directory.
func load(root string) ([]*pkg, error) {
	byDir := map[string]*pkg{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && skipped(entry.Name(), name) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		dir := filepath.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = &pkg{dir: dir}
		}
		return byDir[dir].measure(path, name)
	})
	var all []*pkg
	for _, p := range byDir {
		if p.lines > 0 {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return all, err
}

// skipped reports whether a directory holds no product code.
func skipped(base, name string) bool {
	return strings.HasPrefix(base, ".") || base == "testdata" || name == "tests" || name == "dist" ||
		strings.HasSuffix(base, "test") || base == "testutil"
}

// measure adds the figures of a file.
func (p *pkg) measure(path, name string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := bytes.Count(source, []byte("\n"))
	if strings.HasSuffix(name, "_test.go") {
		p.testLines += lines
		return nil
	}
	p.lines += lines
	p.files = append(p.files, sized{name, lines})
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, comment := range file.Comments {
		p.countWords(comment)
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			p.function(files, file, decl, name)
		case *ast.GenDecl:
			p.declarations(decl, name)
		}
	}
	return nil
}

var (
	word     = regexp.MustCompile(`[A-Za-z][A-Za-z'’]*`)
	isVague  = regexp.MustCompile(`^(?i:what|who|whoever|somebody|nobody)$`)
	indented = regexp.MustCompile(`^(\t|  )`)
)

// countWords counts the words of a comment. Lines that it indents are examples.
func (p *pkg) countWords(comment *ast.CommentGroup) {
	for line := range strings.Lines(comment.Text()) {
		if indented.MatchString(line) {
			continue
		}
		for _, w := range word.FindAllString(line, -1) {
			p.words++
			if isVague.MatchString(w) {
				p.vague++
			}
			if strings.EqualFold(w, "what") {
				p.whats++
			}
		}
	}
}

func (p *pkg) function(files *token.FileSet, file *ast.File, decl *ast.FuncDecl, name string) {
	if decl.Name.IsExported() {
		p.exported++
	}
	line := func(pos token.Pos) int { return files.Position(pos).Line }
	p.functions = append(p.functions, sized{fmt.Sprintf("%s: %s", name, decl.Name.Name), line(decl.End()) - line(decl.Pos()) + 1})
	if decl.Body == nil {
		return
	}
	p.bodyLines += max(0, line(decl.Body.Rbrace)-line(decl.Body.Lbrace)-1)
	commented := map[int]bool{}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if c.Pos() > decl.Body.Lbrace && c.End() <= decl.Body.Rbrace {
				for l := line(c.Pos()); l <= line(c.End()); l++ {
					commented[l] = true
				}
			}
		}
	}
	p.bodyComments += len(commented)
}

// declarations counts the exported names of a declaration and the methods of
// interfaces. An embedded interface counts as one method.
func (p *pkg) declarations(decl *ast.GenDecl, name string) {
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() {
				p.exported++
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok {
				p.interfaces = append(p.interfaces, sized{fmt.Sprintf("%s: %s", name, spec.Name.Name), i.Methods.NumFields()})
			}
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				if n.IsExported() {
					p.exported++
				}
			}
		}
	}
}
