package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/weirhq/weir/internal/whoami"
)

// node is one value of a document: a table, an []*node, a string, an int64, a
// float64, a bool or a time.Time.
type node struct {
	value any
	position
}

type table map[string]*node

// readDocument parses one file. Its error is a *Problem.
func readDocument(file string) (*node, *Problem) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &Problem{File: file, Err: fmt.Errorf("cannot read the configuration: %w", whoami.Explain(errors.Unwrap(err)))}
	}
	return parseDocument(file, string(text))
}

// parseDocument parses the text of a file. Its error is a *Problem.
func parseDocument(file, text string) (*node, *Problem) {
	var values map[string]any
	if _, err := toml.Decode(text, &values); err != nil {
		return nil, syntaxProblem(file, err)
	}
	return newNode(values, "", position{file: file}, locate(text)), nil
}

// salvageDocument parses a file without the lines that are not TOML. A file that
// cannot be read is an empty document.
func salvageDocument(file string) *node {
	text, err := os.ReadFile(file)
	lines := strings.Split(string(text), "\n")
	for err == nil {
		var values map[string]any
		text := strings.Join(lines, "\n")
		_, failed := toml.Decode(text, &values)
		if failed == nil {
			return newNode(values, "", position{file: file}, locate(text))
		}
		parse, ok := errors.AsType[toml.ParseError](failed)
		at := min(parse.Position.Line, len(lines)) - 1
		// A mistake such as a missing bracket is noticed on a later line.
		for at >= 0 && lines[at] == "" {
			at--
		}
		if !ok || at < 0 {
			break
		}
		lines[at] = ""
	}
	return &node{value: table{}}
}

// syntaxProblem turns an error of the TOML library into a Problem. The library
// quotes the text that it could not parse. For the keys of secrets that may be a
// password without quotes around it, so their message is replaced.
func syntaxProblem(file string, err error) *Problem {
	parse, ok := errors.AsType[toml.ParseError](err)
	if !ok {
		return &Problem{File: file, Err: fmt.Errorf("is not TOML: %w", err)}
	}
	message := parse.Message
	for _, word := range []string{"password", "secret", "url", "proxy"} {
		if strings.Contains(parse.LastKey, word) {
			message = "the value is not valid TOML; a string needs quotes around it"
		}
	}
	return &Problem{File: file, Line: parse.Position.Line, Key: parse.LastKey, Err: errors.New(message)}
}

// newNode returns a parsed value, and all values in it, with their positions. A
// value without a line of its own has the position of its parent.
func newNode(value any, key string, at position, lines map[string]int) *node {
	if line, ok := lines[key]; ok {
		at.line = line
	}
	switch v := value.(type) {
	case map[string]any:
		t := make(table, len(v))
		for name, element := range v {
			t[name] = newNode(element, keyIn(key, name), at, lines)
		}
		return &node{t, at}
	case []map[string]any:
		elements := make([]*node, len(v))
		for i, element := range v {
			elements[i] = newNode(element, elementOf(key, i), at, lines)
		}
		return &node{elements, at}
	case []any:
		elements := make([]*node, len(v))
		for i, element := range v {
			elements[i] = newNode(element, elementOf(key, i), at, lines)
		}
		return &node{elements, at}
	default:
		return &node{value, at}
	}
}

// merge returns the earlier document under the later one: tables merge,
// everything else is replaced.
func merge(earlier, later *node) *node {
	below, ok := earlier.value.(table)
	above, isTable := later.value.(table)
	if !ok || !isTable {
		return later // also if only one is a table: decoding reports the wrong type
	}
	merged := maps.Clone(below)
	for name, n := range above {
		if old, ok := merged[name]; ok {
			n = merge(old, n)
		}
		merged[name] = n
	}
	return &node{merged, later.position}
}
