package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File string // empty where no file is to blame
	Line int    // from 1; 0 where it is not known
	Key  string // the key path, its indices counting from 0; empty for a whole file
	Err  error  // what is wrong and what to do
}

// Error returns "file:line: key: what is wrong", without the parts that are
// not known.
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

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// Problems is everything that is wrong with a configuration, in the order of
// the files and their lines.
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
// then by line. Those that no file is to blame for come last.
func (ps Problems) sorted(files []string) Problems {
	rank := func(p *Problem) int {
		if i := slices.Index(files, p.File); i >= 0 {
			return i
		}
		return len(files)
	}
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Line, b.Line))
	})
	return ps
}

// err returns nil for an empty list, which a Problems in an error is not.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// position is where something stands.
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

// keyIn returns the key path of a key in a table. Names that are not bare keys
// are quoted as TOML does it.
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
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == '.' || c == '['):
			end = i
		}
	}
	return key[:end]
}
