package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Problem is one error in a configuration.
type Problem struct {
	File string // empty if the value comes from no file
	Line int    // from 1; 0 if it is not known
	Key  string // the key path, its indices counting from 0; empty for a whole file
	Err  error  // cause and remedy
}

// Error returns "file:line: key: cause", without the parts that are not known.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(position{p.File, p.Line}.String() + ": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Err.Error())
	return b.String()
}

func (p *Problem) Unwrap() error { return p.Err }

// Problems are all errors in a configuration, in the order of files and lines.
type Problems []*Problem

// Error returns one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems for [errors.Is] and [errors.As].
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// sorted orders the problems by file, in the order in which files were merged,
// then by line. Problems without a file come last.
func (ps Problems) sorted(files []string) Problems {
	rank := func(p *Problem) int {
		if i := slices.Index(files, p.File); i >= 0 {
			return i
		}
		return len(files) // no file, or the file of a secret
	}
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Line, b.Line))
	})
	return ps
}

// err returns the list as an error, nil if it is empty. (An empty Problems in an
// error would not be nil.)
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// position is a line of a file.
type position struct {
	file string
	line int
}

func (p position) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// keyIn returns the key path of a key in a table. It quotes names that are not bare
// keys, as TOML does.
func keyIn(parent, name string) string {
	quoted := toml.Key{name}.String()
	if parent == "" {
		return quoted
	}
	return parent + "." + quoted
}

// elementOf returns the key path of an array's element.
func elementOf(parent string, i int) string { return fmt.Sprintf("%s[%d]", parent, i) }

// parentOf returns the key path of the table or array that holds a key.
func parentOf(key string) string {
	quoted, end := false, 0
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case quoted && c == '\\':
			i++ // an escaped quote does not end the name
		case c == '"':
			quoted = !quoted
		case !quoted && (c == '.' || c == '['):
			end = i
		}
	}
	return key[:end]
}
