package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/BurntSushi/toml"
)

// Source names the places that a configuration is read from.
type Source struct {
	Files     []string   // in the order of merging; none: the first one of [Places]
	Overrides []Override // win over files and over the environment
}

// Override is a value from the command line.
type Override struct {
	Key    []string // such as server, port
	Value  string
	Origin string // such as --listen
}

// Places returns the files that are looked for if none is named, the first one
// first. A file by the more general name config.toml counts only if it has one of
// Weir's tables.
func Places() []string {
	return []string{"weir.toml", generalName, "/etc/weir/weir.toml", "/etc/weir/" + generalName}
}

// generalName is the name of the configuration of other programs, too.
const generalName = "config.toml"

// files returns the files to read, and those of the default places that belong to
// another program.
func (s Source) files() (files, passedOver []string) {
	if len(s.Files) > 0 {
		return slices.Clone(s.Files), nil
	}
	return firstOf(Places())
}

func firstOf(places []string) (files, passedOver []string) {
	for _, file := range places {
		_, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case filepath.Base(file) == generalName && !isOurs(file):
			passedOver = append(passedOver, file)
		default:
			// A file that exists and cannot be read is an error, not a reason to
			// take the next one.
			return []string{file}, passedOver
		}
	}
	return nil, passedOver
}

// ourTable matches the start of a table that only Weir's files have.
var ourTable = regexp.MustCompile(`(?m)^[ \t]*\[{1,2}[ \t]*"?(repository|server|blob_store)"?[ \t]*[.\]]`)

// isOurs reports whether a file has a table of Weir's. A file that cannot be read may
// be Weir's.
func isOurs(file string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return true
	}
	var tables map[string]any
	if _, err := toml.Decode(string(text), &tables); err != nil {
		// The tables of a file with a mistake are found by their headings, so that
		// the mistake is reported.
		return ourTable.Match(text)
	}
	for _, name := range []string{"repository", "server", "blob_store"} {
		if _, ok := tables[name].(map[string]any); ok {
			return true
		}
	}
	return false
}

// over puts the built-in repository blocks below the values of files, the blocks of pages
// beside these, and the environment and the overrides above them. It returns the variables that look like
// settings and are none.
func (s Source) over(root *node, written ...*node) (_ *node, strange []string, problems Problems) {
	files, ok := root.value.(table)
	if !ok {
		return root, nil, nil // decode reports it
	}
	if needsBuiltIn(files) {
		root = merge(root, builtIn())
	}
	for _, block := range written {
		root = merge(root, block)
	}
	e := newEnvironment(os.Environ())
	root = e.over(root)
	for _, o := range s.Overrides {
		root = merge(root, nested(o.Key, scalar(o.Value, o.Key, position{file: o.Origin})))
	}
	return root, e.strange(), e.problems
}

// needsBuiltIn reports whether files have no block, so that the built-in ones are in force.
func needsBuiltIn(files table) bool {
	blocks, ok := files["repository"]
	return !ok || isEmpty(blocks)
}

func isEmpty(n *node) bool {
	t, ok := n.value.(table)
	return ok && len(t) == 0
}

// nested returns a document with one value.
func nested(key []string, n *node) *node {
	for _, name := range slices.Backward(key) {
		n = &node{table{name: n}, n.position}
	}
	return n
}
