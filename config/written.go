package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirhq/weir/internal/whoami"
)

// maxWritten is how many files edit_dir can have.
const maxWritten = 200

// writtenBlock is a document of edit_dir.
type writtenBlock struct {
	*node

	file string
}

func documents(written []writtenBlock) (all []*node) {
	for _, one := range written {
		all = append(all, one.node)
	}
	return all
}

// WrittenFiles returns the files of a directory that pages write blocks to, sorted.
func WrittenFiles(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", whoami.Explain(errors.Unwrap(err)))
	}
	var files []string
	for _, entry := range entries {
		if name := entry.Name(); entry.Type().IsRegular() && strings.HasSuffix(name, ".toml") && name[0] != '.' {
			files = append(files, filepath.Join(dir, name))
		}
	}
	if len(files) > maxWritten {
		return nil, fmt.Errorf("has %d files, but it may have at most %d. Move their blocks into a configuration file", len(files), maxWritten)
	}
	return files, nil
}

// Added is a file of edit_dir.
type Added struct {
	File   string // its name
	Text   string
	Key    string // of its block, and the address of its registry; "": the file was changed by hand
	URL    string
	Intact bool // the file is as a page has written it
}

// AddedFiles returns the files of a directory that pages write blocks to, sorted.
func AddedFiles(dir string) (all []Added, err error) {
	files, err := WrittenFiles(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		one := Added{File: filepath.Base(file)}
		if text, err := readRegular(file); err == nil { // else it cannot be intact
			one.Text = string(text)
			if d, intact := parseFile(file, one.Text); intact {
				one.Key, one.URL, one.Intact = d.Key, d.URL, true
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// written returns the blocks of edit_dir, and the problems of their files. Blocks of pages add to the
// blocks of files and to the built-in ones. They replace none of a file, and set nothing else.
func (s Source) written(root *node, more *Draft) (written []writtenBlock, problems Problems) {
	dir, at, err := s.editDir(root)
	if dir == "" && err == nil && more != nil {
		err = errors.New("is not set, so no page can add a block")
	}
	if err != nil {
		return nil, Problems{{File: at.file, Line: at.line, Key: "ui.edit_dir", Err: err}}
	}
	files, err := WrittenFiles(dir)
	if err != nil {
		return nil, Problems{{File: at.file, Line: at.line, Key: "ui.edit_dir", Err: err}}
	}
	add := func(file string, document *node, problem *Problem) {
		found := Problems{problem}
		if problem == nil {
			found = misplaced(document, root, written)
		}
		problems = append(problems, found...)
		if len(found) == 0 {
			written = append(written, writtenBlock{document, file})
		}
	}
	for _, file := range files {
		document, problem := readDocument(file)
		add(file, document, problem)
	}
	if more != nil {
		file := filepath.Join(dir, more.FileName())
		document, problem := parseDocument(file, more.document())
		add(file, document, problem)
	}
	return written, problems
}

// editDir returns the directory that pages write blocks to, and where it is set.
func (s Source) editDir(root *node) (dir string, at position, err error) {
	over, _, _ := s.over(root) // the environment may set it
	n := child(child(over, "ui"), "edit_dir")
	if n == nil {
		return "", position{}, nil
	}
	text, isText := n.value.(string)
	if !isText {
		return "", n.position, nil // decoding reports it
	}
	dir, err = expand(text)
	if err != nil {
		return "", n.position, nil //nolint:nilerr // likewise
	}
	return dir, n.position, nil
}

// misplaced returns the problems of a document of edit_dir in addition to those of files.
func misplaced(document, files *node, before []writtenBlock) (problems Problems) {
	top, _ := document.value.(table)
	for name, n := range top {
		if name != "repository" {
			problems = append(problems, &Problem{File: n.file, Line: n.line, Key: name, Err: errors.New("does not belong in a file of ui.edit_dir, which may only have repository blocks")})
		}
	}
	blocks, _ := child(document, "repository").get()
	for key, n := range blocks {
		others := []*node{files}
		for _, one := range before {
			others = append(others, one.node)
		}
		for _, other := range others {
			if known := child(child(other, "repository"), key); known != nil {
				problems = append(problems, &Problem{File: n.file, Line: n.line, Key: keyIn("repository", key), Err: fmt.Errorf("is in %s already; remove one of the two", known.position)})
			}
		}
	}
	return problems
}

// get returns the table that a node is.
func (n *node) get() (table, bool) {
	if n == nil {
		return nil, false
	}
	t, ok := n.value.(table)
	return t, ok
}

// confineWritten bounds where the upstreams of the blocks of pages may be, and which names the blocks serve. A
// block in place of a built-in one serves the names of that one.
func (c *Config) confineWritten(builtIn []string) {
	for i, n := range c.Namespaces {
		if slices.Contains(c.source.written, c.source.positions[keyIn("repository", n.Key)].file) {
			c.Namespaces[i].confine(c.UI.AllowPrivateRegistries)
			c.Namespaces[i].Added = !slices.Contains(builtIn, n.Key)
		}
	}
}

// checkEditDir returns an error unless the mirror alone may write a directory.
func checkEditDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("cannot be used: %w", whoami.Explain(err))
	case !info.IsDir():
		return fmt.Errorf("cannot be used: %s is not a directory", dir)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("cannot be used: every user can write %s. Run chmod o-w on it", dir)
	}
	if err := mayWrite(dir); err != nil {
		return fmt.Errorf("cannot be written by %s: %s: %w", whoami.User(), dir, err)
	}
	return nil
}
