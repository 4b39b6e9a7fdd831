package oci

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Fields returns the members of a JSON object whose names are exactly these, as parts of
// the text. Of two members with one name the last one counts. It returns an error if the
// text is neither an object nor null.
//
// encoding/json alone takes other cases as well: it would read the key "Token" of a
// metadata service's answer as the "token" of a token service. And its decoder holds a
// copy of each value, which would triple the memory of a long list.
func Fields(text []byte, names ...string) (map[string]json.RawMessage, error) {
	// All text is valid from here on.
	if err := json.Unmarshal(text, new(struct{})); err != nil {
		return nil, err
	}
	fields := make(map[string]json.RawMessage, len(names))
	rest, _ := bytes.CutPrefix(bytes.TrimSpace(text), []byte("{")) // else it is null
	for {
		name, value, left, more := cutMember(rest)
		if !more {
			return fields, nil
		}
		if slices.Contains(names, name) {
			fields[name] = value
		}
		rest = left
	}
}

// cutMember cuts the first member off the inside of a valid object. It reports false if
// there is none.
func cutMember(inside []byte) (name string, value json.RawMessage, rest []byte, found bool) {
	colon := endOfValue(inside)
	if colon == len(inside) || inside[colon] != ':' {
		return "", nil, nil, false
	}
	_ = json.Unmarshal(inside[:colon], &name) // it is a valid string
	value = inside[colon+1:]
	end := endOfValue(value)
	rest = value[end:]
	if value[end] == ',' {
		rest = value[end+1:]
	}
	return name, json.RawMessage(bytes.TrimSpace(value[:end])), rest, true
}

// endOfValue returns the length of the value that a part of a valid text begins with, up
// to the colon, comma or bracket after it.
func endOfValue(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++ // the next character is not a quote
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ':' || c == ',' || c == '}' || c == ']'):
			return i
		case c == '}' || c == ']':
			depth--
		}
	}
	return len(text)
}
