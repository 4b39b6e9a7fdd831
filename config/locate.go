package config

import (
	"strings"

	"github.com/BurntSushi/toml"
)

// locate returns the line of every key, table and array element in a document,
// by key path. The TOML library reports lines for syntax errors only, so locate
// scans the text again. The document must be valid TOML. If locate meets syntax
// that it does not know, the rest of the document has no lines.
func locate(text string) map[string]int {
	l := &locator{text: text, line: 1, lines: map[string]int{}, elements: map[string]int{}}
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\ufeff"} { // the byte order marks that the parser skips
		if l.skipPrefix(mark) {
			break
		}
	}
	current := ""
	for l.skipBlank(true); l.pos < len(l.text); l.skipBlank(true) {
		start := l.pos
		if l.text[l.pos] == '[' {
			current = l.header()
		} else {
			l.keyValue(current)
		}
		if l.pos == start {
			break // no progress: unknown syntax
		}
	}
	return l.lines
}

type locator struct {
	text     string
	pos      int
	line     int            // of pos
	lines    map[string]int // by key path
	elements map[string]int // how many elements an array of tables has so far
}

// header reads [table] or [[array]] and returns the key path of the keys after it.
func (l *locator) header() string {
	line := l.line
	l.skipPrefix("[")
	isArray := l.skipPrefix("[")
	parts := l.key()
	key := ""
	for i, part := range parts {
		key = keyIn(key, part)
		last := i == len(parts)-1
		if last && isArray {
			l.record(key, line)
			l.elements[key]++
		}
		// [[a]] adds an element; [a.b] after it is a table of the last element.
		if n := l.elements[key]; n > 0 {
			key = elementOf(key, n-1)
		}
		if last {
			l.lines[key] = line // it counts more than a sub-table, which only implies the table
		} else {
			l.record(key, line)
		}
	}
	l.skipPrefix("]")
	l.skipPrefix("]")
	return key
}

// keyValue reads key = value.
func (l *locator) keyValue(parent string) {
	key := parent
	for _, part := range l.key() {
		key = keyIn(key, part)
		l.record(key, l.line)
	}
	l.skipPrefix("=")
	l.skipBlank(false)
	l.value(key)
}

// key reads a dotted key and the blanks around it.
func (l *locator) key() []string {
	var parts []string
	for {
		l.skipBlank(false)
		parts = append(parts, l.keyPart())
		l.skipBlank(false)
		if !l.skipPrefix(".") {
			return parts
		}
	}
}

func (l *locator) keyPart() string {
	rest := l.text[l.pos:]
	if strings.HasPrefix(rest, `"`) || strings.HasPrefix(rest, `'`) {
		start := l.pos
		l.quoted()
		var unquoted struct{ Key string }
		// The library knows all escapes of a quoted key.
		if _, err := toml.Decode("key = "+l.text[start:l.pos], &unquoted); err != nil {
			return ""
		}
		return unquoted.Key
	}
	end := strings.IndexAny(rest, ". \t=]\r\n")
	if end < 0 {
		end = len(rest)
	}
	l.pos += end
	return rest[:end]
}

// value reads a value and records the lines of its elements.
func (l *locator) value(key string) {
	if l.pos == len(l.text) {
		return
	}
	switch l.text[l.pos] {
	case '"', '\'':
		l.quoted()
	case '[':
		l.inside(']', func(i int) {
			element := elementOf(key, i)
			l.record(element, l.line)
			l.value(element)
		})
	case '{':
		l.inside('}', func(int) { l.keyValue(key) })
	default: // number, boolean or date
		if end := strings.IndexAny(l.text[l.pos:], ",]}#\r\n"); end >= 0 {
			l.pos += end
		} else {
			l.pos = len(l.text)
		}
	}
}

// inside reads the items of an array or an inline table, with its brackets.
func (l *locator) inside(end byte, item func(i int)) {
	l.pos++
	for i := 0; ; i++ {
		l.skipBlank(true)
		if l.pos == len(l.text) || l.skipPrefix(string(end)) {
			return
		}
		start := l.pos
		item(i)
		l.skipBlank(true)
		l.skipPrefix(",")
		if l.pos == start {
			return // no progress: unknown syntax
		}
	}
}

// quoted skips a string of any of the four kinds.
func (l *locator) quoted() {
	quote := l.text[l.pos : l.pos+1]
	escapes := quote == `"`
	end := quote
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(l.text[l.pos:], triple) {
		end = triple
	}
	l.pos += len(end)
	for l.pos < len(l.text) && !strings.HasPrefix(l.text[l.pos:], end) {
		// The escaped character may be a quote.
		if escapes && l.text[l.pos] == '\\' {
			l.advance()
		}
		l.advance()
	}
	l.skipPrefix(end)
	if len(end) == 3 { // up to two quotes may stand before the closing three
		for range 2 {
			l.skipPrefix(quote)
		}
	}
}

// skipBlank skips spaces and, if wanted, line ends and comments.
func (l *locator) skipBlank(lineEnds bool) {
	for l.pos < len(l.text) {
		switch c := l.text[l.pos]; {
		case c == ' ' || c == '\t':
		case lineEnds && (c == '\r' || c == '\n'):
		case lineEnds && c == '#':
			for l.pos < len(l.text) && l.text[l.pos] != '\n' {
				l.advance()
			}
			continue
		default:
			return
		}
		l.advance()
	}
}

func (l *locator) skipPrefix(prefix string) bool {
	if !strings.HasPrefix(l.text[l.pos:], prefix) {
		return false
	}
	l.pos += len(prefix)
	return true
}

func (l *locator) advance() {
	if l.pos == len(l.text) {
		return
	}
	if l.text[l.pos] == '\n' {
		l.line++
	}
	l.pos++
}

// record keeps the first line of a key path.
func (l *locator) record(key string, line int) {
	if _, ok := l.lines[key]; !ok {
		l.lines[key] = line
	}
}
